"""Settings of `python -m hmc_fast.sample`, and the presets: one table of defaults per (preset, sampler).

A flag that is None takes the value that the table holds for the chosen preset and sampler; `config.json`
of a run says what it came to.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..targets.priors import suggested_trajectory_length

__all__ = ["PRESETS", "Settings", "resolve"]


@dataclass(frozen=True)
class Settings:
    """Draw from the posterior of a neural network and show what was found."""

    out: Path | None = None
    """Directory of the run; it must not hold one yet. Default: runs/PRESET-TIME."""
    resume: bool = False
    """Continue the interrupted run in --out, with the settings it was started with."""

    sampler: Literal["hmc", "mclmc", "sghmc", "sgld", "psgld", "sgnht", "baoab"] = "hmc"
    """hmc: full batch, exact Metropolis-Hastings test. mclmc: full batch, microcanonical, no test. The others:
    minibatches, no test. sghmc: with friction. sgld: without momentum. psgld: sgld, preconditioned. sgnht: with a
    thermostat. baoab: a finer split of sghmc."""
    chains: int | None = None
    """Markov chains, sampled side by side."""
    burn_in: int | None = None
    """Iterations before draws count."""
    draws: int | None = None
    """Draws kept of each chain."""
    thin: int = 1
    """Iterations per kept draw."""
    step_size: float | None = None
    """Leapfrog step size, in units of the parameters; of sgld and psgld: in their square."""
    adapt: bool = False
    """hmc: learn the step size, inverse mass and trajectory length in burn-in; given ones are kept. mclmc: the
    same of its step size, inverse mass and length, wherever no --step-size is given."""
    trajectory_length: float | None = None
    """hmc: step size times leapfrog steps, in units of the parameters. Default: pi/2 prior standard deviations."""
    jitter: float | None = None
    """hmc: relative half-width of a uniform jitter of the trajectory length, in [0, 1)."""
    acceptance: Literal["log_ratio", "density_ratio"] = "log_ratio"
    """hmc: form of the Metropolis test; both are the same test."""
    test_in_burn_in: bool | None = None
    """hmc: whether the Metropolis test is applied during burn-in too."""
    batch_size: int | None = None
    """All but hmc and mclmc: examples per minibatch; 0 is the full data."""
    friction: float | None = None
    """sghmc, sgnht, baoab: friction, 1 / time; step size times friction is the share of momentum lost per step."""
    noise_estimate: float = 0.0
    """sghmc: part of the friction that gradient noise pays for, between 0 and the friction."""
    refresh_interval: int = 0
    """sghmc: iterations between fresh momenta; 0 is never."""
    num_leapfrog: int | None = None
    """All but hmc: steps, of one gradient each, per iteration. Default: one epoch; mclmc: 10."""
    cycle_length: int | None = None
    """sghmc, sgld, psgld, baoab: iterations per cosine cycle of the step size; 0 keeps it constant."""
    cycle_keep: int | None = None
    """With --cycle-length: iterations at the end of each cycle whose draws count."""
    cycle_exploration: float | None = None
    """With --cycle-length: share of each cycle that runs without noise, before it samples, in [0, 1)."""
    decay: float | None = None
    """psgld: share of the mean squared gradient that is kept per step, in [0, 1)."""
    damping: float | None = None
    """psgld: added to the root mean square of the gradient per example, whose inverse is the preconditioner."""

    temperature: float = 1.0
    """Temperature T; log likelihood and log prior are both divided by it."""
    prior: Literal["normal", "laplace", "logistic", "student_t", "mixture"] = "normal"
    """Family of the prior of every parameter."""
    prior_variance: float | None = None
    """Variance of the prior of every parameter."""
    init: str | None = None
    """Where chains begin: prior, model (a freshly initialised network each) or a file of trained weights."""

    data: str | None = None
    """digits, fashion-mnist, uci-NAME, or module:callable returning (x_train, y_train, x_test, y_test)."""
    data_dir: Path = Path("data")
    """Directory that holds data files."""
    train_size: int = 0
    """Training examples to use; 0 is all."""
    split: int = 0
    """uci: number of the train/test split."""
    model: str | None = None
    """mlp, lenet, resnet20, uci-mlp, or module:callable returning a torch module."""
    width: int | None = None
    """resnet20: channels of the first stage. Default: 8."""
    activation: str | None = None
    """Activation of the network: relu, silu, tanh, ..."""
    norm: str | None = None
    """resnet20: normalisation: frn, group, none (batch cannot be sampled)."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:INDEX."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of gradients; energies are exact whatever it is."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Gradients through torch.compile; auto: where the work of the run repays it, by a rule that is printed."""
    graph: Literal["auto", "on", "off"] = "auto"
    """Leapfrog steps as CUDA graphs; auto: on a GPU, where the model allows."""
    chain_batching: Literal["auto", "vmap", "loop", "streams"] = "auto"
    """Chains in one pass, one by one, or on parallel CUDA streams; auto: measured before a long run."""
    profile: bool = False
    """Write a torch profiler trace of a few iterations (profile.json) and print the five largest costs."""
    micro_batch_size: int | None = None
    """Examples per forward and backward pass; bounds memory, changes results by rounding alone."""
    capacity: str | None = None
    """Draws held on the device, as a number of draws (64) or of bytes (512MB); changes no result."""
    draw_dtype: Literal["float16", "float32"] = "float16"
    """Precision of stored draws."""
    seed: int = 0
    """All randomness follows from it."""
    progress: bool = True
    """Show progress."""


_COMMON: dict[str, Any] = {
    "test_in_burn_in": True,
    "jitter": 0.0,
    "cycle_length": 0,
    "cycle_keep": 1,
    "cycle_exploration": 0.0,
    "decay": 0.99,
}

# The settings that some samplers take and others do not.
_MINIBATCH = {"batch_size", "num_leapfrog"}
_CYCLE = {"cycle_length", "cycle_keep", "cycle_exploration"}
_TAKES: dict[str, set[str]] = {
    "hmc": {"adapt", "trajectory_length", "jitter", "acceptance", "test_in_burn_in"},
    "mclmc": {"adapt", "num_leapfrog"},
    "sghmc": {"friction", "noise_estimate", "refresh_interval"} | _MINIBATCH | _CYCLE,
    "sgld": _MINIBATCH | _CYCLE,
    "psgld": {"decay", "damping"} | _MINIBATCH | _CYCLE,
    "sgnht": {"friction"} | _MINIBATCH,
    "baoab": {"friction"} | _MINIBATCH | _CYCLE,
}

# What each preset means for each sampler.
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "hmc": {
            # Burn-in without the test, as in Izmailov et al. 2021: with it 2 of 20 chains (seeds 0 to 4) refused
            # every proposal from the steep place in the prior where they began, and never left it.
            "chains": 4,
            "burn_in": 25,
            "draws": 50,
            "step_size": 0.02,
            "test_in_burn_in": False,
            "init": "prior",
        },
        "sghmc": {
            # Nine pairs tried, step sizes .002 to .012, frictions 4 to 25. Total variation of one chain from HMC
            # on the test set, after 150 epochs: .066 at (.004, 25), .036 here, .032 at (.008, 4). After 600: .021
            # here, .020 at (.008, 4) and (.012, 8), whose NLL lies .004 off HMC's; here it is within .001.
            "chains": 4,
            "burn_in": 50,
            "draws": 100,
            "step_size": 0.008,
            "friction": 8.0,
            "batch_size": 128,
            "init": "prior",
        },
    },
    "fashion-lenet": {
        "hmc": {
            "chains": 1,
            "burn_in": 5,
            "draws": 10,
            "step_size": 5e-4,
            "trajectory_length": 0.01,
            "test_in_burn_in": False,
            "init": "model",
        },
        "sghmc": {
            # Learning rate .05 on the mean loss (step size^2 times N), momentum .9, noise off while a cycle
            # explores. Measured on full Fashion-MNIST: BMA accuracy .9171 and NLL .2296 after 60 epochs in all;
            # 3 chains with noise throughout need 150 for .916 and .236.
            "chains": 4,
            "burn_in": 5,
            "draws": 4,
            "step_size": 9.13e-4,
            "friction": 109.5,
            "batch_size": 128,
            "cycle_length": 5,
            "cycle_keep": 2,
            "cycle_exploration": 0.6,
            "init": "model",
        },
    },
    "fashion-resnet20": {
        "hmc": {
            # For a look on a CPU with --train-size 1000, where a gradient takes about a second: from fresh
            # networks the chain learns within a few short trajectories; the paper's length is 0.7025.
            "chains": 1,
            "burn_in": 6,
            "draws": 10,
            "step_size": 5e-3,
            "trajectory_length": 0.1,
            "test_in_burn_in": False,
            "init": "model",
        },
        "sghmc": {
            "chains": 4,
            "burn_in": 20,
            "draws": 40,
            "step_size": 9.13e-4,
            "friction": 109.5,
            "batch_size": 128,
            "cycle_length": 10,
            "cycle_keep": 4,
            "init": "model",
        },
    },
    **{
        # one step size per set: the smaller the residual noise, the stiffer the posterior
        f"uci-{name}": {
            "hmc": {
                "chains": 4,
                "burn_in": 120,
                "draws": 100,
                "step_size": step_size,
                "trajectory_length": 300 * step_size,
                "test_in_burn_in": False,
                "init": "model",
            },
            "sghmc": {
                "chains": 4,
                "burn_in": 200,
                "draws": 200,
                "step_size": step_size,
                "friction": 0.1 / step_size,
                "batch_size": 32,
                "num_leapfrog": 100,
                "init": "model",
            },
        }
        for name, step_size in (("concrete", 4e-4), ("energy", 1e-4), ("yacht", 1e-4))
    },
}


def _defaults(preset: str, sampler: str) -> dict[str, Any]:
    """The table's entry, or what SGHMC's means for a sampler of its kind."""
    if sampler in _DEFAULTS[preset]:
        return _DEFAULTS[preset][sampler]
    table = dict(_DEFAULTS[preset]["sghmc"])
    # Tried on digits alone: after 150 epochs one chain's average is off that of HMC by a total variation of .068
    # (sgld) and .035 to .036 (sghmc, psgld, sgnht, baoab).
    if sampler == "sgld":
        table["step_size"] = 4 * table["step_size"] ** 2  # learning rate, half of this, twice that of sghmc
    if sampler == "mclmc":
        del table["step_size"]  # learned in burn-in
        table["num_leapfrog"] = 10
    if sampler == "psgld":
        table["damping"] = 1e-3
        table["step_size"] = 0.2 * table["step_size"] ** 2
    return {name: value for name, value in table.items() if name in _TAKES[sampler] or name not in _OWN}


_ADAPTING_BURN_IN = 200  # iterations: Stan's first and last phase, and two windows for the inverse mass
_OWN = set[str]().union(*_TAKES.values())

PRESETS: dict[str, Settings] = {
    "digits": Settings(sampler="hmc", data="digits", model="mlp", prior_variance=0.2),
    "fashion-resnet20": Settings(
        sampler="sghmc", data="fashion-mnist", model="resnet20", activation="silu", prior_variance=0.2
    ),
    "fashion-lenet": Settings(
        sampler="sghmc", data="fashion-mnist", model="lenet", activation="silu", prior_variance=0.02
    ),
    "uci-concrete": Settings(sampler="hmc", data="uci-concrete", model="uci-mlp", prior_variance=0.2),
    "uci-energy": Settings(sampler="hmc", data="uci-energy", model="uci-mlp", prior_variance=0.2),
    "uci-yacht": Settings(sampler="hmc", data="uci-yacht", model="uci-mlp", prior_variance=0.2),
}


def resolve(preset: str, settings: Settings) -> Settings:
    """Fills every None from the table of `preset` and the chosen sampler.

    Raises:
        UserError: a number that is not positive where it must be, or a setting that the sampler does not take.
    """
    table = _COMMON | _defaults(preset, settings.sampler)
    if settings.sampler == "mclmc" and settings.step_size is None:
        settings = dataclasses.replace(settings, adapt=True)
    if settings.adapt:
        table = {name: value for name, value in table.items() if name not in ("step_size", "jitter")}
        table["burn_in"] = max(table["burn_in"], _ADAPTING_BURN_IN)
        table["test_in_burn_in"] = True  # a step size that is still wrong must not carry a chain away
    for field in dataclasses.fields(settings):
        if field.name in _OWN - _TAKES[settings.sampler] and getattr(settings, field.name) != field.default:
            takers = ", ".join(sampler for sampler, names in _TAKES.items() if field.name in names)
            raise UserError(
                f"--{field.name.replace('_', '-')} is not a setting of --sampler {settings.sampler}: "
                f"leave it out, or use one of {takers}"
            )
    missing = {f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) is None}
    filled = dataclasses.replace(settings, **{k: v for k, v in table.items() if k in missing})
    if filled.prior_variance is None or not (math.isfinite(filled.prior_variance) and filled.prior_variance > 0):
        raise UserError(f"--prior-variance {filled.prior_variance} must be a positive number")
    if filled.sampler == "hmc" and filled.trajectory_length is None and not filled.adapt:
        length = suggested_trajectory_length(filled.prior_variance)
        filled = dataclasses.replace(filled, trajectory_length=length)
    return filled
