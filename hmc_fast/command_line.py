"""Command lines of the form `prog [PRESET] [--flags]`, from a dataclass of settings and a table of presets.

tyro reads types, defaults and help from the dataclass. A mistake is one line on stderr and exit status 2.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from .errors import UserError

__all__ = ["main_guard", "parse"]

S = TypeVar("S")


def parse(
    settings_type: type[S],
    presets: Mapping[str, S],
    *,
    prog: str,
    description: str,
    argv: list[str] | None,
    shown: Callable[[str, S], S] = lambda preset, settings: settings,
) -> tuple[str, S]:
    """The chosen preset's name, and its settings with the flags applied.

    Args:
        presets: the first one is the default.
        argv: arguments; None takes those of the process.
        shown: maps a preset to the settings whose values `--help` prints as defaults.

    Exits with status 0 after `--help`, 2 after a mistake.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    preset = next(iter(presets))
    if arguments and not arguments[0].startswith("-"):
        preset = arguments.pop(0)
        if preset not in presets:
            near = difflib.get_close_matches(preset, presets, n=1)
            hint = f"; did you mean {near[0]}?" if near else f": use one of {', '.join(presets)}"
            _fail(prog, f"unknown preset {preset!r}{hint}")
    wants_help = "-h" in arguments or "--help" in arguments
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            settings, unknown = tyro.cli(
                settings_type,
                default=shown(preset, presets[preset]) if wants_help else presets[preset],
                args=arguments,
                prog=f"python -m {prog} [PRESET]",
                description=f"{description}\n\nPresets: {', '.join(presets)}. Defaults shown: {preset}.",
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        _fail(prog, _one_line(captured.getvalue()))
    if unknown:
        _fail(prog, _unknown(unknown, settings_type, presets))
    return preset, settings


def main_guard(function: Callable[[], None], prog: str) -> int:
    """Runs a command: 0 when it is done, 2 with one line for a user's mistake, 130 after Ctrl-C."""
    try:
        function()
    except UserError as error:
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(prog: str, message: str) -> NoReturn:
    print(f"{prog}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _unknown(arguments: list[str], settings_type: Any, presets: Iterable[str]) -> str:
    """What to say of arguments that no setting takes; the first option among them is the culprit."""
    option = next((argument for argument in arguments if argument.startswith("-")), None)
    if option is None:
        hint = ": the preset comes first" if arguments[0] in presets else " (see --help)"
        return f"unexpected argument {arguments[0]!r}{hint}"
    option = option.split("=")[0]
    near = difflib.get_close_matches(option.replace("_", "-"), _flags(settings_type), n=1)
    return f"unknown option {option}" + (f"; did you mean {near[0]}?" if near else " (see --help)")


def _flags(settings_type: Any) -> list[str]:
    names = [field.name.replace("_", "-") for field in dataclasses.fields(settings_type)]
    return [f"--{name}" for name in names] + [f"--no-{name}" for name in names]


def _one_line(text: str) -> str:
    """The first paragraph of the box that tyro draws: below the title, above the first rule."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    _, *lines = [line.strip(" │|") for line in plain.strip().splitlines() or [""]]
    if lines and re.match("-{4}", lines[0]):  # without UTF-8 the title has a rule of its own
        lines.pop(0)
    paragraph = itertools.takewhile(lambda line: not re.match(r"[─-]{4}|[╰+]|Got errors:", line), lines)
    message = " ".join(" ".join(paragraph).split()).rstrip(".")
    # A setting that may be left open is "{None}|TYPE" to tyro; whoever gave a value means the type.
    message = re.sub(r"no type matching \{None\}\|(\w+).* from \['(.*)'\]", r"'\2' is not of type \1", message)
    message = message.removeprefix("Error parsing ").replace(". Expected 1 values", "")
    return f"{message[:1].lower()}{message[1:]} (see --help)"
