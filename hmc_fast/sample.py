"""`python -m hmc_fast.sample [PRESET] [--flags]`: settings in, a directory of draws, figures and a report out."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .command_line import main_guard, parse
from .compute.device import resolve_device
from .compute.random_streams import check_seed
from .datasets import Dataset, load
from .dynamics.schedules import CosineCyclical
from .engine.loop import Interrupted
from .engine.output import refuse_existing
from .engine.runner import run
from .errors import UserError
from .models import build
from .presets.settings import PRESETS, Settings, resolve
from .report import write_report
from .report.first_look import first_look_figure
from .results.run import Run
from .results.run_folder import describe_environment, write_scores
from .samplers import HMC, MCLMC, PSGLD, SGHMC, SGLD, SGNHT, Sampler, UnderdampedLangevin
from .targets import priors
from .targets.flat_module import FlatModel
from .targets.posterior import Posterior
from .train import load_weights

_PROG = "hmc_fast.sample"

# What may differ between a run and its resumption: nothing that a draw depends on.
_FREE_ON_RESUME = {"out", "resume", "device", "capacity", "progress", "micro_batch_size", "data_dir"}
_FREE_ON_RESUME |= {"graph", "profile"}
_SWITCH: dict[str, Any] = {"auto": "auto", "on": True, "off": False}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 for a finished run, 2 for a mistake of the user, 130 after Ctrl-C."""
    preset, settings = parse(
        Settings,
        PRESETS,
        prog=_PROG,
        description="Draw from the posterior of a neural network's weights by Hamiltonian Monte Carlo.",
        argv=argv,
        shown=resolve,
    )
    arguments = sys.argv[1:] if argv is None else argv
    return main_guard(lambda: _sample(preset, settings, arguments), _PROG)


def _sample(preset: str, settings: Settings, arguments: list[str]) -> None:
    if settings.resume:
        preset, settings = _resumed(preset, settings, arguments)
    else:
        settings = resolve(preset, settings)
    check_seed(settings.seed)
    directory = settings.out or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not settings.resume:
        refuse_existing(directory)
    dataset = make_dataset(settings)
    result = draw(preset, settings, directory, dataset)
    figures = write_artifacts(directory, preset, result, dataset)
    if settings.progress:
        print(headline(figures), *figures["diagnosis"], sep="\n")
    print(directory)


def draw(preset: str, settings: Settings, directory: Path, dataset: Dataset) -> Run:
    """The run that the resolved settings describe, in `directory`, with its draws, trace and checkpoint."""
    device = resolve_device(settings.device)
    sampler = make_sampler(settings)
    posterior, init = make_posterior(settings, dataset, device)
    config = {"preset": preset, **dataclasses.asdict(settings), "out": directory, "resume": False}
    try:
        return run(
            posterior,
            sampler,
            chains=_required(settings.chains),
            burn_in=_required(settings.burn_in),
            draws=_required(settings.draws),
            thin=settings.thin,
            seed=settings.seed,
            init=init,
            test=(dataset.x_test, dataset.y_test),
            draw_dtype=getattr(torch, settings.draw_dtype),
            capacity=settings.capacity,
            out=directory,
            resume=settings.resume,
            config=config | describe_environment(device),
            compile=_SWITCH[settings.compile],
            graph=_SWITCH[settings.graph],
            profile=settings.profile,
            progress=settings.progress,
        )
    except Interrupted:
        print(f"interrupted; continue with: python -m {_PROG} --out {directory} --resume", file=sys.stderr)
        raise


def write_artifacts(directory: Path, preset: str, result: Run, dataset: Dataset) -> dict[str, Any]:
    """Predictions, metrics, figures and the report; returns the metrics."""
    labels = dataset.y_test.numpy()
    figures = write_scores(directory, preset, result, labels, dataset.y_mean, dataset.y_std)
    images = dataset.grey_images()
    write_report(directory, images=images, class_names=dataset.class_names)
    if dataset.task == "classification":
        first_look_figure(directory, images, dataset.class_names)
    return figures


def headline(figures: dict[str, Any]) -> str:
    """The run in one line."""
    if "accuracy" in figures:
        score = (
            f"BMA accuracy {figures['accuracy']:.4f} (single draw {figures['accuracy_single']:.4f}), "
            f"NLL {figures['nll']:.4f} (single {figures['nll_single']:.4f})"
        )
    else:
        score = f"RMSE {figures['rmse']:.4g}, log likelihood {figures['log_likelihood']:.4g}"
    rate = figures["acceptance_rate"]
    test = "no Metropolis test" if rate is None else f"acceptance {rate:.2f}"
    return f"{score}, {test}, {figures['gradients_per_s']:.4g} gradients/s, {figures['seconds']:.1f} s"


def make_sampler(settings: Settings) -> Sampler:
    """The sampler that the resolved settings describe."""
    if settings.sampler == "hmc":
        return HMC(
            settings.step_size,
            trajectory_length=settings.trajectory_length,
            adapt=settings.adapt,
            jitter=settings.jitter,
            acceptance=settings.acceptance,
            test_in_burn_in=bool(settings.test_in_burn_in),
        )
    if settings.sampler == "mclmc":
        return MCLMC(settings.step_size, adapt=settings.adapt, steps_per_iteration=settings.num_leapfrog)
    schedule = None
    if settings.cycle_length:
        schedule = CosineCyclical(
            settings.cycle_length,
            keep=_required(settings.cycle_keep),
            exploration=_required(settings.cycle_exploration),
        )
    step_size, friction = _required(settings.step_size), settings.friction
    minibatches: dict[str, Any] = {"batch_size": settings.batch_size, "steps_per_iteration": settings.num_leapfrog}
    if settings.sampler == "sgld":
        return SGLD(step_size, schedule=schedule, **minibatches)
    if settings.sampler == "psgld":
        decay, damping = _required(settings.decay), _required(settings.damping)
        return PSGLD(step_size, decay=decay, damping=damping, schedule=schedule, **minibatches)
    if settings.sampler == "sgnht":
        return SGNHT(step_size, friction=_required(friction), **minibatches)
    if settings.sampler == "baoab":
        return UnderdampedLangevin(step_size, friction=_required(friction), schedule=schedule, **minibatches)
    return SGHMC(
        step_size,
        friction=_required(friction),
        noise_estimate=settings.noise_estimate,
        refresh_interval=settings.refresh_interval,
        schedule=schedule,
        **minibatches,
    )


def make_dataset(settings: Settings) -> Dataset:
    """The data, cut to `train_size`."""
    if settings.data is None:
        raise UserError("--data is missing: name a data set or a module:callable")
    dataset = load(settings.data, settings.data_dir, split=settings.split)
    if settings.train_size < 0:
        raise UserError(f"--train-size {settings.train_size} must be positive, or 0 for all")
    return dataset.subset(settings.train_size) if settings.train_size else dataset


def make_posterior(settings: Settings, dataset: Dataset, device: torch.device) -> tuple[Posterior, "str | Tensor"]:
    """The posterior, and where its chains begin (for "model": one fresh network per chain)."""
    if settings.model is None:
        raise UserError("--model is missing: name a model or a module:callable")

    def fresh(seed: int) -> torch.nn.Module:
        return build(
            str(settings.model),
            dataset,
            width=settings.width,
            activation=settings.activation,
            norm=settings.norm,
            seed=seed,
        )

    model = fresh(settings.seed)
    families: dict[str, type[priors.Prior]] = {
        "normal": priors.Normal,
        "laplace": priors.Laplace,
        "logistic": priors.Logistic,
        "student_t": priors.StudentT,
        "mixture": priors.Mixture,
    }
    chains = _required(settings.chains)
    init: str | Tensor = str(settings.init)
    if chains < 1:
        raise UserError(f"chains {chains} must be at least 1")
    if init == "model":
        rows = [FlatModel(fresh((settings.seed * chains + chain) % 2**63)).initial for chain in range(chains)]
        init = torch.stack(rows)
    elif init != "prior":
        load_weights(Path(str(settings.init)), model)
        init = "model"
    posterior = Posterior(
        model,
        (dataset.x_train, dataset.y_train),
        likelihood="categorical" if dataset.task == "classification" else _regression_likelihood(model, dataset),
        prior=families[settings.prior](_required(settings.prior_variance)),
        temperature=settings.temperature,
        micro_batch_size=settings.micro_batch_size,
        precision=settings.precision,
        chain_batching=None if settings.chain_batching == "auto" else settings.chain_batching,
        device=device,
    )
    return posterior, init


def _regression_likelihood(model: torch.nn.Module, dataset: Dataset) -> str:
    """Two outputs are a mean and a spread; one output is a mean with unit noise."""
    flat = FlatModel(model)  # refuses a model that cannot be sampled before it is called
    width = flat(flat.initial, dataset.x_train[:1]).numel()
    return "heteroscedastic" if width == 2 else "gaussian"


def _resumed(preset: str, settings: Settings, arguments: list[str]) -> tuple[str, Settings]:
    """The stored settings of the run in --out, with the flags that may change taken from the command."""
    if settings.out is None:
        raise UserError("--resume needs --out, the directory of the run to continue")
    path = settings.out / "config.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist: there is no run to resume")
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        preset_of_run = stored["preset"]
        values = {field.name: stored[field.name] for field in dataclasses.fields(Settings)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the config.json of a run ({type(error).__name__}: {error})") from error
    for name in ("out", "data_dir"):
        values[name] = Path(values[name])
    if arguments and arguments[0] == preset and preset != preset_of_run:
        raise UserError(f"the run in {settings.out} has preset {preset_of_run}, not {preset}: leave the preset out")
    flags = {argument.split("=")[0].lstrip("-").replace("-", "_") for argument in arguments}
    given = {name for name in values if flags & {name, f"no_{name}"}}
    for name in sorted(given - _FREE_ON_RESUME):
        if getattr(settings, name) != values[name]:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(settings, name)} differs from the run in {settings.out}, "
                f"which has {values[name]}: a run is resumed with its own settings"
            )
    values |= {name: getattr(settings, name) for name in _FREE_ON_RESUME if name != "data_dir" or name in given}
    return preset_of_run, Settings(**values)


def _required(value: Any) -> Any:
    """A setting that the preset's table must have filled."""
    assert value is not None, "a preset leaves a setting open"
    return value


if __name__ == "__main__":
    sys.exit(main())
