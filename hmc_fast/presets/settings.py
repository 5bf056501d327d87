"""The settings of a run that are not the sampler's: data, network, prior, chains, and execution."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..command_line import setting
from ..engine.ensemble import Training

__all__ = ["FREE_ON_RESUME", "TRAINING_FLAGS", "SampleSettings", "drawn_from"]

_RUN, _POSTERIOR, _DATA, _COMPUTING, _OUTPUT = "Run", "Posterior", "Data and model", "Computing", "Output"
_TRAINING = "Training, with --init train"


@dataclass(frozen=True)
class SampleSettings:
    """Settings of `python -m hmc_fast.sample` except the sampler's; `presets/table.py` has the presets' values."""

    preset: str  # the name of the preset from which the other values come

    chains: int = setting(4, "Number of Markov chains, sampled in parallel.", topic=_RUN)
    burn_in: int = setting(50, "Initial iterations to discard.", topic=_RUN, unit="iterations")
    draws: int = setting(200, "Draws to keep per chain.", topic=_RUN, unit="draws")
    thin: int = setting(1, "Iterations per kept draw.", topic=_RUN, unit="iterations")
    init: str = setting(
        "prior",
        "Initial states: prior, model (a freshly initialised network per chain), train (these networks, trained "
        "together first) or a file of trained weights.",
        topic=_RUN,
    )
    seed: int = setting(0, "Determines all randomness.", topic=_RUN)
    certify: bool = setting(
        False,
        "Without a Metropolis test: measure afterwards what the step size does to the results, by coupled chains "
        "at half of it; three times the gradients of the draws. Writes bias.json.",
        topic=_RUN,
        affects_draws=False,
    )

    train_epochs: int = setting(
        Training.epochs,
        "Passes over the training data, at most; the learning rate falls to 0 along a cosine.",
        topic=_TRAINING,
    )
    train_optimizer: Literal["adamw", "sgd"] = setting(
        Training.optimizer, "adamw, or sgd with momentum .9.", topic=_TRAINING
    )
    train_learning_rate: float | None = setting(
        None, "First learning rate. Default: 1e-3 for adamw, .05 for sgd.", topic=_TRAINING
    )
    train_weight_decay: float | None = setting(
        None, "Default: .01 for adamw (decoupled), 5e-4 for sgd.", topic=_TRAINING
    )
    train_batch_size: int | None = setting(
        None, "Examples per step of each member. Default: 64, or all if fewer.", topic=_TRAINING
    )
    train_held_out: float = setting(
        Training.held_out,
        "Share of the training data on which members are judged while they train; 0 keeps the last parameters.",
        topic=_TRAINING,
    )
    train_patience: int = setting(
        Training.patience, "Epochs without improvement that end a member's training.", topic=_TRAINING
    )

    temperature: float = setting(
        1.0, "Temperature T, which divides log likelihood and log prior.", topic=_POSTERIOR
    )
    prior: Literal["normal", "laplace", "logistic", "student_t", "mixture"] = setting(
        "normal",
        "Family of the prior of every parameter: normal, laplace, logistic, student_t or mixture.",
        topic=_POSTERIOR,
    )
    prior_variance: float = setting(0.2, "Variance of the prior of every parameter.", topic=_POSTERIOR)

    data: str = setting(
        "digits",
        "digits, fashion-mnist, uci-NAME, or module:callable returning (x_train, y_train, x_test, y_test).",
        topic=_DATA,
    )
    data_dir: Path = setting(Path("data"), "Directory of the data files.", topic=_DATA, affects_draws=False)
    train_size: int = setting(0, "Number of training examples to use; 0 uses all.", topic=_DATA)
    split: int = setting(0, "uci: index of the train/test split.", topic=_DATA)
    model: str = setting(
        "mlp", "mlp, lenet, resnet20, uci-mlp, or module:callable returning a torch module.", topic=_DATA
    )
    width: int | None = setting(
        None,
        "resnet20: channels of the first stage; mlp: units of each hidden layer. Default: 8 and 50.",
        topic=_DATA,
    )
    activation: str | None = setting(
        None, "Activation of the network: relu, silu, tanh, ... Default: tanh for mlp, else relu.", topic=_DATA
    )
    norm: str | None = setting(
        None, "resnet20: normalisation: frn, group, none (batch cannot be sampled). Default: frn.", topic=_DATA
    )

    device: str = setting("auto", "auto, cpu, cuda or cuda:INDEX.", topic=_COMPUTING, affects_draws=False)
    precision: Literal["fp32", "tf32", "bf16"] = setting(
        "fp32", "Arithmetic of gradients; energies always use full precision.", topic=_COMPUTING
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Compile trajectories or gradients, as C or by torch's compiler; auto: if the run is long enough "
        "(the estimate is printed).",
        topic=_COMPUTING,
    )
    graph: Literal["auto", "on", "off"] = setting(
        "auto",
        "Leapfrog steps as CUDA graphs; auto: on a GPU, if the model allows it.",
        topic=_COMPUTING,
        affects_draws=False,
    )
    kernels: Literal["auto", "torch"] = setting(
        "auto",
        "On a GPU, the updates by Triton kernels (auto: each is checked against its definition once) or by torch.",
        topic=_COMPUTING,
    )
    chain_batching: Literal["auto", "vmap", "loop", "streams"] = setting(
        "auto",
        "Chains in one pass (vmap), one by one, or on parallel CUDA streams; auto: measured before a long run.",
        topic=_COMPUTING,
    )
    micro_batch_size: int | None = setting(
        None,
        "Examples per forward and backward pass; bounds memory, affects results only by rounding.",
        topic=_COMPUTING,
        affects_draws=False,
    )
    capacity: str | None = setting(
        None,
        "Draws buffered on the device, in draws (64) or bytes (512MB); does not affect results.",
        topic=_COMPUTING,
        affects_draws=False,
    )
    draw_dtype: Literal["auto", "float16", "float32"] = setting(
        "auto", "Precision of stored draws; auto: float16 where it holds every weight's spread.", topic=_COMPUTING
    )
    profile: bool = setting(
        False,
        "Write a torch profiler trace of a few iterations (profile.json) and print the five largest costs.",
        topic=_COMPUTING,
        affects_draws=False,
    )

    out: Path | None = setting(
        None,
        "Directory of the run; it must not contain one yet. Default: runs/PRESET-TIME.",
        topic=_OUTPUT,
        affects_draws=False,
    )
    resume: bool = setting(
        False,
        "Continue the interrupted run in --out with its original settings.",
        topic=_OUTPUT,
        affects_draws=False,
    )
    checkpoint_seconds: float = setting(
        60.0,
        "Seconds between checkpoints: what a kill may cost.",
        topic=_OUTPUT,
        unit="s",
        affects_draws=False,
    )
    progress: bool = setting(True, "Show progress.", topic=_OUTPUT, affects_draws=False)


# Flags of `Training`, and its arguments.
TRAINING_FLAGS = {
    field.name: field.name.removeprefix("train_")
    for field in fields(SampleSettings)
    if field.metadata.get("topic") == _TRAINING
}

# The settings that may differ between a run and its resumption, because no draw depends on them.
FREE_ON_RESUME = frozenset(
    field.name for field in fields(SampleSettings) if not field.metadata.get("affects_draws", True)
)


def drawn_from(config: dict[str, Any]) -> dict[str, Any]:
    """The subset of a run's settings that its draws depend on."""
    return {name: value for name, value in config.items() if name not in FREE_ON_RESUME}
