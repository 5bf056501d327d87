"""`python -m hmc_fast.sample [PRESET] [--flags]`: samples a posterior and writes draws, figures and a report."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from .atomic_files import write_json
from .command_line import Parsed, main_guard, parse
from .compute.random_streams import check_seed
from .datasets import Dataset
from .engine.output import refuse_existing
from .errors import Interrupted
from .messages import tell
from .presets.build import draw, make_dataset
from .presets.resolve import resolve, resumed, sample_flags
from .presets.table import PRESETS
from .report import write_report
from .report.first_look import first_look_figure
from .results.bias_certificate import refuse_tested
from .results.run import Run
from .results.run_folder import write_scores

_PROG = "hmc_fast.sample"
_DESCRIPTION = """Draw from the posterior of a neural network's weights by Hamiltonian Monte Carlo.

Sampler settings use the symbols of their files in hmc_fast/samplers/. In their descriptions, None means that the \
flag is left out, and False its --no- form."""


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 for a finished run, 2 for a user mistake, 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP."""
    return main_guard(lambda: _sample(_parsed(argv)), _PROG)


def _parsed(argv: list[str] | None) -> Parsed:
    return parse(sample_flags, PRESETS, prog=_PROG, description=_DESCRIPTION, argv=argv)


def _sample(parsed: Parsed) -> None:
    if parsed.given.get("resume"):
        specification = resumed(parsed.given, parsed.preset if parsed.names_preset else None)
    else:
        specification = resolve(parsed.preset, parsed.given)
    settings = specification.settings
    check_seed(settings.seed)
    if settings.certify:
        refuse_tested(specification.sampler)
    directory = settings.out or Path("runs") / f"{settings.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not settings.resume:
        refuse_existing(directory)
    dataset = make_dataset(settings)
    try:
        result = draw(specification, directory, dataset)
    except Interrupted:
        tell(f"interrupted; to continue: python -m {_PROG} --out {directory} --resume")
        raise
    figures = write_artifacts(directory, settings.preset, result, dataset)
    if settings.progress:
        tell(headline(figures), *figures["diagnosis"], file=sys.stdout)
    if settings.certify:
        certificate = result.bias_certificate((dataset.x_test, dataset.y_test))
        write_json(directory / "bias.json", dataclasses.asdict(certificate))
        tell(str(certificate), file=sys.stdout)
    tell(str(directory), file=sys.stdout)


def write_artifacts(directory: Path, preset: str, result: Run, dataset: Dataset) -> dict[str, Any]:
    """Writes predictions, metrics, figures and the report; returns the metrics."""
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
        score = (
            f"RMSE {figures['rmse']:.4g}, log likelihood {figures['log_likelihood']:.4g} of a Gaussian with the "
            f"draws' mean and variance, {figures['log_likelihood_mixture']:.4g} of their mixture"
        )
    rate = figures["acceptance_rate"]
    test = "no Metropolis test" if rate is None else f"acceptance {rate:.2f}"
    return f"{score}, {test}, {figures['gradients_per_s']:.4g} gradients/s, {figures['seconds']:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
