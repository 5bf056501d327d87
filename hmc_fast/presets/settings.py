"""What a run of the command line is, but for its sampler: data, network, prior, chains, and where it computes."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..command_line import setting

__all__ = ["FREE_ON_RESUME", "SampleSettings", "drawn_from"]

_RUN, _POSTERIOR, _DATA, _COMPUTING, _OUTPUT = "Run", "Posterior", "Data and model", "Computing", "Output"


@dataclass(frozen=True)
class SampleSettings:
    """Settings of `python -m hmc_fast.sample`; a preset's and a sampler's own are in `presets/table.py`."""

    preset: str  # the name under which the others were found

    chains: int = setting(4, "Markov chains, sampled side by side.", topic=_RUN)
    burn_in: int = setting(50, "Iterations before draws count.", topic=_RUN, unit="iterations")
    draws: int = setting(200, "Draws kept of each chain.", topic=_RUN, unit="draws")
    thin: int = setting(1, "Iterations per kept draw.", topic=_RUN, unit="iterations")
    init: str = setting(
        "prior",
        "Where chains begin: prior, model (a freshly initialised network each) or a file of trained weights.",
        topic=_RUN,
    )
    seed: int = setting(0, "All randomness follows from it.", topic=_RUN)

    temperature: float = setting(
        1.0, "Temperature T; log likelihood and log prior are both divided by it.", topic=_POSTERIOR
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
    data_dir: Path = setting(Path("data"), "Directory that holds data files.", topic=_DATA, affects_draws=False)
    train_size: int = setting(0, "Training examples to use; 0 is all.", topic=_DATA)
    split: int = setting(0, "uci: number of the train/test split.", topic=_DATA)
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
        "fp32", "Arithmetic of gradients; energies are exact whatever it is.", topic=_COMPUTING
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Gradients through torch.compile; auto: where the work of the run repays it, by a rule that is printed.",
        topic=_COMPUTING,
    )
    graph: Literal["auto", "on", "off"] = setting(
        "auto",
        "Leapfrog steps as CUDA graphs; auto: on a GPU, where the model allows.",
        topic=_COMPUTING,
        affects_draws=False,
    )
    chain_batching: Literal["auto", "vmap", "loop", "streams"] = setting(
        "auto",
        "Chains in one pass, one by one, or on parallel CUDA streams; auto: measured before a long run.",
        topic=_COMPUTING,
    )
    micro_batch_size: int | None = setting(
        None,
        "Examples per forward and backward pass; bounds memory, changes results by rounding alone.",
        topic=_COMPUTING,
        affects_draws=False,
    )
    capacity: str | None = setting(
        None,
        "Draws held on the device, as a number of draws (64) or of bytes (512MB); changes no result.",
        topic=_COMPUTING,
        affects_draws=False,
    )
    draw_dtype: Literal["float16", "float32"] = setting("float16", "Precision of stored draws.", topic=_COMPUTING)
    profile: bool = setting(
        False,
        "Write a torch profiler trace of a few iterations (profile.json) and print the five largest costs.",
        topic=_COMPUTING,
        affects_draws=False,
    )

    out: Path | None = setting(
        None,
        "Directory of the run; it must not hold one yet. Default: runs/PRESET-TIME.",
        topic=_OUTPUT,
        affects_draws=False,
    )
    resume: bool = setting(
        False,
        "Continue the interrupted run in --out, with the settings it was started with.",
        topic=_OUTPUT,
        affects_draws=False,
    )
    progress: bool = setting(True, "Show progress.", topic=_OUTPUT, affects_draws=False)


# What may differ between a run and its resumption: nothing that a draw depends on.
FREE_ON_RESUME = frozenset(
    field.name for field in fields(SampleSettings) if not field.metadata.get("affects_draws", True)
)


def drawn_from(config: dict[str, Any]) -> dict[str, Any]:
    """Of a run's settings those that its draws depend on."""
    return {name: value for name, value in config.items() if name not in FREE_ON_RESUME}
