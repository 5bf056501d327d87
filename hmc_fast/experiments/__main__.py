"""`python -m hmc_fast.experiments NAME [PRESET] [--flags]`: writes a page that answers one question."""

import dataclasses
import importlib
import shlex
import sys
from pathlib import Path

from ..arguments import shown
from ..command_line import did_you_mean, flags_of, main_guard, parse
from ..errors import UserError
from ..results.run_folder import describe_environment
from .page import Page
from .run_cache import Lab
from .settings import PRESETS, ExperimentSettings

_PROG = "hmc_fast.experiments"

NAMES = ("chains", "budget", "surface", "rhat", "fidelity", "priors", "temperature", "shift", "baselines")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 on success, 2 for a user mistake, 130 after Ctrl-C."""
    return main_guard(lambda: _main(list(sys.argv[1:] if argv is None else argv)), _PROG)


def _main(arguments: list[str]) -> None:
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise UserError(f"name an experiment: {', '.join(NAMES)}")
    if name is not None and name not in NAMES:
        hint = did_you_mean(name, NAMES) or f": use one of {', '.join(NAMES)}"
        raise UserError(f"unknown experiment {shown(name)}{hint}")
    preset, given, _ = parse(
        lambda preset, given: flags_of(PRESETS[preset]),
        PRESETS,
        prog=f"{_PROG} {name or 'NAME'}",
        description=f"Answer one question about a network's posterior.\n\nNAME: {', '.join(NAMES)}.",
        argv=arguments,
    )
    command = f"python -m {_PROG} {shlex.join([name or '', *arguments])}".rstrip()
    answer(str(name), preset, dataclasses.replace(PRESETS[preset], **given), command)


def answer(name: str, preset: str, settings: ExperimentSettings, command: str) -> None:
    """Carries out missing runs and writes the page; prints its claims and its path."""
    question = importlib.import_module(f".questions.{name}", __package__)
    directory = settings.out or Path("runs/experiments") / preset / name
    _check_writable(directory)
    lab = Lab(preset, settings)
    sizes = f"{len(lab.dataset.y_train):,} training and {len(lab.labels):,} test examples"
    environment = describe_environment(lab.device)
    repeated = name in ("chains", "baselines") and settings.seeds > 1
    seeds = f"s {settings.seed} to {settings.seed + settings.seeds - 1}" if repeated else f" {settings.seed}"
    note = (
        f"Preset {preset}: {sizes}, {lab.posterior.num_params:,} parameters; seed{seeds}; "
        f"{environment['device']}, torch {environment['versions']['torch']}."
    )
    page = Page(question.QUESTION, directory, command, note)
    question.answer(lab, page)
    if stuck := lab.stuck():
        page.claim(
            "Chains that hardly moved, whose results are unreliable; try a smaller --step-size:",
            None,
            "; ".join(f"{sample.name}, acceptance {sample.acceptance_rate:.2f}" for sample in stuck) + ".",
        )
    stored = {
        k: v for k, v in dataclasses.asdict(settings).items() if k not in ("out", "cache", "data_dir", "progress")
    }
    path = page.write({"experiment": name, "preset": preset, **stored, **environment})
    if settings.progress:
        print(*(f"{claim.verdict}: {claim.text} {claim.numbers}" for claim in page.claims), sep="\n")
    print(path)


def _check_writable(directory: Path) -> None:
    above = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"--out {directory} cannot be written because {above} is a file: choose another directory")


if __name__ == "__main__":
    sys.exit(main())
