"""Settings of `python -m hmc_fast.experiments`, and what they are at each preset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["EPOCHS", "PRESETS", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Ask one question of a network's posterior; the answer is a page of figures, tables and numbers."""

    out: Path | None = None
    """Directory of the answer. Default: runs/experiments/PRESET/NAME."""
    cache: Path = Path("runs/experiments/cache")
    """Directory that keeps every run; a run that two experiments need is done once, an interrupted one goes on."""

    chains: int = 4
    """HMC and minibatch samplers: Markov chains."""
    burn_in: int = 25
    """HMC: iterations before draws count."""
    draws: int = 101
    """HMC: draws kept of each chain."""
    long_draws: int = 401
    """rhat and fidelity: draws kept of each chain of the long HMC run that others are measured against."""
    step_size: float = 0.02
    """HMC: leapfrog step size, in units of the parameters."""
    trajectory_length: float | None = None
    """HMC: step size times leapfrog steps. Default: pi/2 prior standard deviations."""
    prior_variance: float = 0.2
    """Variance of the Gaussian prior of every parameter."""
    seeds: int = 5
    """chains and baselines: repetitions behind each error bar."""
    seed: int = 0
    """The first seed; all randomness follows from it."""

    train_size: int = 0
    """Training examples; 0 is all. Of baselines: those of HMC, the other methods see all of them."""
    test_size: int = 0
    """Test examples; 0 is all."""
    epochs: int | None = None
    """Epochs of each trained network. Default: 40 on digits, 10 (lenet) or 60 (resnet20) on Fashion-MNIST, and on a
    part of the training data as many more as make as many steps."""
    sampler_epochs: int | None = None
    """Epochs of each chain of a minibatch sampler: half of them, and at most 100, are burn-in. Default: 600 on
    digits, otherwise that of --epochs."""
    members: int = 10
    """Networks of a deep ensemble."""
    data_dir: Path = Path("data")
    """Directory that holds data files."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:INDEX."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of gradients; energies are exact whatever it is."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Gradients of samplers through torch.compile; auto: where the work of a run repays it."""
    progress: bool = True
    """Show progress."""


PRESETS: dict[str, Settings] = {
    # Minutes on two CPU cores.
    "digits": Settings(compile="on"),  # one compilation, kept on disk, serves dozens of short runs
    # Minutes on a GPU. HMC sees 1,000 images, so that a small machine can look too; --train-size asks for more.
    "fashion-lenet": Settings(
        chains=3,
        burn_in=10,
        draws=25,
        long_draws=25,
        step_size=2e-3,  # acceptance on 1,000 images .40; of twice this, at prior variance .02, 1 in 16
        prior_variance=0.05,  # at .02 SGD on 1,000 images ends at chance, an NLL of ln 10
        train_size=1000,
        seeds=1,
    ),
    "fashion-resnet20": Settings(
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
