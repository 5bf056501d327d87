"""What the experiments ask and how large they are, and their presets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..command_line import setting

__all__ = ["EPOCHS", "PRESETS", "ExperimentSettings"]

_SAMPLERS, _OTHERS, _COMPUTING, _FILES = "Samplers", "Data and other methods", "Computing", "Output"


@dataclass(frozen=True)
class ExperimentSettings:
    """Settings of `python -m hmc_fast.experiments`."""

    chains: int = setting(4, "HMC and minibatch samplers: Markov chains.", topic=_SAMPLERS)
    burn_in: int = setting(25, "HMC: iterations before draws count.", topic=_SAMPLERS)
    draws: int = setting(101, "HMC: draws kept of each chain.", topic=_SAMPLERS)
    long_draws: int = setting(
        401,
        "rhat and fidelity: draws kept of each chain of the long HMC run that others are measured against.",
        topic=_SAMPLERS,
    )
    step_size: float = setting(0.02, "HMC: leapfrog step size, in units of the parameters.", topic=_SAMPLERS)
    trajectory_length: float | None = setting(
        None, "HMC: step size times leapfrog steps. Default: pi/2 prior standard deviations.", topic=_SAMPLERS
    )
    prior_variance: float = setting(0.2, "Variance of the Gaussian prior of every parameter.", topic=_SAMPLERS)
    seeds: int = setting(5, "chains and baselines: repetitions behind each error bar.", topic=_SAMPLERS)
    seed: int = setting(0, "The first seed; all randomness follows from it.", topic=_SAMPLERS)

    train_size: int = setting(
        0,
        "Training examples; 0 is all. Of baselines: those of HMC, the other methods see all of them.",
        topic=_OTHERS,
    )
    test_size: int = setting(0, "Test examples; 0 is all.", topic=_OTHERS)
    epochs: int | None = setting(
        None,
        "Epochs of each trained network. Default: 40 on digits, 10 (lenet) or 60 (resnet20) on Fashion-MNIST, and "
        "on a part of the training data as many more as make as many steps.",
        topic=_OTHERS,
    )
    sampler_epochs: int | None = setting(
        None,
        "Epochs of each chain of a minibatch sampler: half of them, and at most 100, are burn-in. Default: 600 on "
        "digits, otherwise that of --epochs.",
        topic=_OTHERS,
    )
    members: int = setting(10, "Networks of a deep ensemble.", topic=_OTHERS)

    device: str = setting("auto", "auto, cpu, cuda or cuda:INDEX.", topic=_COMPUTING)
    precision: Literal["fp32", "tf32", "bf16"] = setting(
        "fp32", "Arithmetic of gradients; energies are exact whatever it is.", topic=_COMPUTING
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Gradients of samplers through torch.compile; auto: where the work of a run repays it.",
        topic=_COMPUTING,
    )

    out: Path | None = setting(
        None, "Directory of the answer. Default: runs/experiments/PRESET/NAME.", topic=_FILES
    )
    cache: Path = setting(
        Path("runs/experiments/cache"),
        "Directory that keeps every run; a run that two experiments need is done once, an interrupted one goes on.",
        topic=_FILES,
    )
    data_dir: Path = setting(Path("data"), "Directory that holds data files.", topic=_FILES)
    progress: bool = setting(True, "Show progress.", topic=_FILES)


PRESETS: dict[str, ExperimentSettings] = {
    # Minutes on two CPU cores.
    "digits": ExperimentSettings(compile="on"),  # one compilation, kept on disk, serves dozens of short runs
    # Minutes on a GPU. HMC sees 1,000 images, so that a small machine can look too; --train-size asks for more.
    "fashion-lenet": ExperimentSettings(
        chains=3,
        burn_in=10,
        draws=25,
        long_draws=25,
        step_size=2e-3,  # acceptance on 1,000 images .40; of twice this, at prior variance .02, 1 in 16
        prior_variance=0.05,  # at .02 SGD on 1,000 images ends at chance, an NLL of ln 10
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

# Epochs of a trained network, and of a chain on minibatches, on all training data of a preset.
EPOCHS = {"digits": (40, 600), "fashion-lenet": (10, 10), "fashion-resnet20": (60, 60)}
