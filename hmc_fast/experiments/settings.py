"""The settings of the experiments, and their presets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..command_line import setting

__all__ = ["EPOCHS", "PRESETS", "ExperimentSettings"]

_SAMPLERS, _OTHERS, _COMPUTING, _FILES = "Samplers", "Data and other methods", "Computing", "Output"


@dataclass(frozen=True)
class ExperimentSettings:
    """Settings of `python -m hmc_fast.experiments`."""

    chains: int = setting(4, "HMC and minibatch samplers: number of Markov chains.", topic=_SAMPLERS)
    burn_in: int = setting(25, "HMC: initial iterations to discard.", topic=_SAMPLERS)
    draws: int = setting(101, "HMC: draws to keep per chain.", topic=_SAMPLERS)
    long_draws: int = setting(
        401,
        "rhat and fidelity: draws to keep per chain of the long HMC run that serves as the reference.",
        topic=_SAMPLERS,
    )
    step_size: float = setting(0.02, "HMC: leapfrog step size, in units of the parameters.", topic=_SAMPLERS)
    trajectory_length: float | None = setting(
        None, "HMC: step size times leapfrog steps. Default: pi/2 prior standard deviations.", topic=_SAMPLERS
    )
    prior_variance: float = setting(0.2, "Variance of the Gaussian prior of every parameter.", topic=_SAMPLERS)
    seeds: int = setting(5, "chains and baselines: number of repetitions per error bar.", topic=_SAMPLERS)
    seed: int = setting(0, "The first seed, which determines all randomness.", topic=_SAMPLERS)

    train_size: int = setting(
        0,
        "Number of training examples; 0 uses all. In baselines it applies to HMC only; other methods use all.",
        topic=_OTHERS,
    )
    test_size: int = setting(0, "Number of test examples; 0 uses all.", topic=_OTHERS)
    epochs: int | None = setting(
        None,
        "Epochs per trained network. Default: 40 on digits, 10 (lenet) or 60 (resnet20) on Fashion-MNIST; on a "
        "subset of the training data, more epochs for the same number of steps.",
        topic=_OTHERS,
    )
    sampler_epochs: int | None = setting(
        None,
        "Epochs per chain of a minibatch sampler; half of them, but at most 100, are burn-in. Default: 600 on "
        "digits, otherwise the default of --epochs.",
        topic=_OTHERS,
    )
    members: int = setting(10, "Number of networks in a deep ensemble.", topic=_OTHERS)

    device: str = setting("auto", "auto, cpu, cuda or cuda:INDEX.", topic=_COMPUTING)
    precision: Literal["fp32", "tf32", "bf16"] = setting(
        "fp32", "Arithmetic of gradients; energies always use full precision.", topic=_COMPUTING
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Gradients of samplers through torch.compile; auto: if a run is long enough to pay off.",
        topic=_COMPUTING,
    )

    out: Path | None = setting(None, "Directory of the page. Default: runs/experiments/PRESET/NAME.", topic=_FILES)
    cache: Path = setting(
        Path("runs/experiments/cache"),
        "Directory of all runs, which experiments share; an interrupted run is resumed from it.",
        topic=_FILES,
    )
    data_dir: Path = setting(Path("data"), "Directory of the data files.", topic=_FILES)
    progress: bool = setting(True, "Show progress.", topic=_FILES)


PRESETS: dict[str, ExperimentSettings] = {
    # Minutes on two CPU cores.
    "digits": ExperimentSettings(compile="on"),  # one compilation, cached on disk, serves dozens of short runs
    # Minutes on a GPU. HMC uses 1,000 images, so that small machines can run it too; --train-size raises that.
    "fashion-lenet": ExperimentSettings(
        chains=3,
        burn_in=10,
        draws=25,
        long_draws=25,
        step_size=2e-3,  # acceptance .40 on 1,000 images; at twice this and prior variance .02, 1 in 16
        prior_variance=0.05,  # at .02, SGD on 1,000 images does not beat chance, an NLL of ln 10
        train_size=1000,
        seeds=1,
    ),
    "fashion-resnet20": ExperimentSettings(
        chains=3,
        burn_in=20,
        draws=41,
        long_draws=41,
        step_size=1e-3,
        prior_variance=0.2,
        train_size=1000,
        seeds=1,
    ),
}

# By preset: epochs of a trained network and of a minibatch chain, on the full training set.
EPOCHS = {"digits": (40, 600), "fashion-lenet": (10, 10), "fashion-resnet20": (60, 60)}
