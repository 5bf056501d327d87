"""Command lines of the form `prog [PRESET] [--flags]`, from a dataclass of settings and a table of presets.

tyro reads types, defaults and help from the dataclass. A mistake is one line on stderr and exit status 2.
"""

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

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
    default = shown(preset, presets[preset]) if wants_help else presets[preset]
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            settings = tyro.cli(
                settings_type,
                default=default,
                args=arguments,
                prog=f"{prog} [PRESET]",
                description=f"{description}\n\nPresets: {', '.join(presets)}. Defaults shown: {preset}.",
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        _fail(prog, _one_line(captured.getvalue()))
    return preset, settings


def main_guard(function: Callable[[], None], prog: str) -> int:
    """Runs a command: 0 when it is done, 2 with one line for a user's mistake, 130 after Ctrl-C."""
    try:
        function()
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(prog: str, message: str) -> NoReturn:
    print(f"{prog}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _one_line(text: str) -> str:
    """What tyro drew as a box: its first paragraph, and the flag that it suggests."""
    lines = [line.strip(" │") for line in text.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"[-─╭╮╰╯├┤ ]{8,}", line)]
    begin = rules[0] + 1 if rules else 0
    end = rules[1] if len(rules) > 1 else len(lines)
    paragraph = " ".join(lines[begin:end]).split(" Got errors:")[0]
    message = re.sub(r"\s+", " ", paragraph).strip().rstrip(".")
    message = message.replace("Unrecognized options:", "unknown option")
    suggestion = re.search(r"Perhaps you meant:\s*(?:[-─]+\s*)?(--[\w-]+)", "\n".join(lines))
    return f"{message}; did you mean {suggestion[1]}?" if suggestion else f"{message} (see --help)"
