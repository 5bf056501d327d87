"""Command lines of the form `prog [PRESET] [--flags]`, built from flags described as data.

`parse` returns only the values given, so that a command can tell the user's choice from a default. A mistake is
reported on one line of stderr, with exit status 2.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from .arguments import shown
from .errors import Interrupted, UserError
from .flag_values import did_you_mean, kind_of, reader
from .messages import tell

__all__ = ["Flag", "did_you_mean", "fail", "flags_of", "main_guard", "option", "parse", "setting"]

_OUT_OF_MEMORY = (
    "there is not enough memory: use fewer --chains or --draws, a smaller model or --train-size, or pass fewer "
    "examples at once with --micro-batch-size"
)

Given = dict[str, Any]  # by the setting's name: the values that the user gave


class Parsed(NamedTuple):
    """The contents of a command line."""

    preset: str
    given: Given
    names_preset: bool  # False: the preset is the default


@dataclass(frozen=True)
class Flag:
    """One setting as an option of a command.

    Attributes:
        name: the setting's, with underscores.
        type: float, int, bool, str, Path, a Literal of strings, or one of these or None.
        help: the text in `--help`; each line is a paragraph.
        topic: its group in `--help`.
        default: shown by `--help` unless it is None.
        unit: of the value, shown after the default.
    """

    name: str
    type: Any
    help: str
    topic: str
    default: Any = None
    unit: str = ""


def setting(default: Any, help: str, *, topic: str, unit: str = "", affects_draws: bool = True) -> Any:
    """A field of a settings dataclass, with the metadata for its flag.

    affects_draws: False for settings that may differ between a run and its resumption.
    """
    metadata = {"help": help, "topic": topic, "unit": unit, "affects_draws": affects_draws}
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(settings: Any) -> list[Flag]:
    """The flags of a settings dataclass, with the instance's values as defaults."""
    types = get_type_hints(type(settings))
    return [
        Flag(
            f.name,
            types[f.name],
            f.metadata["help"],
            f.metadata["topic"],
            getattr(settings, f.name),
            f.metadata["unit"],
        )
        for f in dataclasses.fields(settings)
        if "topic" in f.metadata
    ]


def parse(
    flags: Callable[[str, Given], Sequence[Flag]],
    presets: Iterable[str],
    *,
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
) -> Parsed:
    """Parses arguments.

    Args:
        flags: maps a preset and the values given to its flags; the values given only affect what `--help` lists.
        presets: the first one is the default.
        argv: arguments; None: those of the process.

    Exits with status 0 after `--help`, 2 after a mistake.
    """
    arguments, presets = list(sys.argv[1:] if argv is None else argv), list(presets)
    names_preset = bool(arguments) and not arguments[0].startswith("-")
    preset = arguments.pop(0) if names_preset else presets[0]
    if preset not in presets:
        hint = did_you_mean(preset, presets) or f": use one of {', '.join(presets)}"
        fail(prog, f"unknown preset {shown(preset)}{hint}")
    known = {option(flag.name): flag for flag in flags(preset, {})}
    parser = _Parser(prog, known.values())
    given, unknown = parser.parse_known_args(_normalised(arguments, known))
    values = vars(given)
    wants_help = values.pop("help", False)
    if unknown:
        fail(prog, _unknown(unknown, list(known.values()), presets))
    if wants_help:
        text = f"{description}\n\nPresets: {', '.join(presets)}. Defaults shown: {preset}."
        _Parser(prog, flags(preset, values), text).print_help()
        raise SystemExit(0)
    return Parsed(preset, values, names_preset)


def main_guard(function: Callable[[], None], prog: str) -> int:
    """Runs a command. Returns 0 on success, 2 after a user mistake, reported on one line, 130 after Ctrl-C, 143
    after SIGTERM, 129 after SIGHUP."""
    received: list[int] = []
    try:
        with _interrupted_by_signals(received):
            function()
    except UserError as error:
        return _told(prog, str(error))
    except Interrupted as stop:
        return stop.status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if received:
            return 128 + received[0]  # the import of a compiled module makes an ImportError of an interruption
        if _is_out_of_memory(error):
            return _told(prog, f"{_OUT_OF_MEMORY} ({str(error)[:120] or 'MemoryError'})")
        if isinstance(error, OSError) and error.filename is not None:
            place = f"{shown(str(error.filename))} cannot be used ({error.strerror})"
            return _told(prog, f"{place}: check the path, its permissions and its disk")
        raise
    finally:
        _flush_or_drop(sys.stdout, sys.stderr)
    return 0


def _told(prog: str, message: str) -> int:
    """Prints it on one line, with quoted values cut if they are long; returns the status."""
    line = re.sub(r"'([^']{40})[^']{260,}'", r"'\1...'", " ".join(message.split()))
    tell(f"{prog}: error: {line}")
    return 2


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy or torch, on any device, was refused memory."""
    if isinstance(error, MemoryError):
        return True
    words = (
        "allocate memory",
        "out of memory",
        "Storage size calculation overflowed",
    )  # torch has no class of them
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextlib.contextmanager
def _interrupted_by_signals(received: list[int]) -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, unless they are ignored, as under nohup.

    received: where their numbers go.
    """

    def stop(number: int, frame: Any) -> NoReturn:
        received.append(number)
        raise Interrupted(number)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for ended, handler in previous.items():
            signal.signal(ended, handler)


def _flush_or_drop(*streams: Any) -> None:
    """Drops what a closed pipe does not take: Python would fail on it at its end, whatever the command returns."""
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def option(name: str) -> str:
    """The command-line spelling of a setting."""
    return f"--{name.replace('_', '-')}"


class _Parser(argparse.ArgumentParser):
    """argparse with our error messages, and with flags that are absent unless given."""

    def __init__(self, prog: str, flags: Iterable[Flag], description: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=f"python -m {prog} [PRESET] [--flags]",
            description=description,
            formatter_class=_Help,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        groups: dict[str, Any] = {}
        for flag in flags:
            if flag.topic not in groups:
                groups[flag.topic] = self.add_argument_group(flag.topic)
            kind, text = kind_of(flag.type), _with_default(flag).replace("%", "%%")
            if kind is bool:
                groups[flag.topic].add_argument(
                    option(flag.name), dest=flag.name, help=text, action=argparse.BooleanOptionalAction
                )
            else:
                groups[flag.topic].add_argument(
                    option(flag.name), dest=flag.name, help=text, type=reader(kind), metavar=_metavar(kind)
                )
        self.add_argument_group("Help").add_argument(
            "-h", "--help", action="store_true", help="Show this message and exit."
        )

    def error(self, message: str) -> NoReturn:
        fail(self.prog, f"{message.removeprefix('argument ')} (see --help)")


class _Help(argparse.HelpFormatter):
    """Help in which every line is its own paragraph."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(textwrap.fill(paragraph, width) for paragraph in text.splitlines())

    def _split_lines(self, text: str, width: int) -> list[str]:
        paragraphs = text.splitlines()
        indent = "  " if len(paragraphs) > 1 else ""
        return [line for text in paragraphs for line in textwrap.wrap(text, width, subsequent_indent=indent)]


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        choices = "{" + ",".join(get_args(kind)) + "}"
        return choices if len(choices) < 40 else "NAME"
    return {int: "INT", float: "FLOAT", Path: "PATH"}.get(kind, "TEXT")


def _with_default(flag: Flag) -> str:
    if flag.default is None:
        return flag.help
    default = f"{flag.default:.6g}" if isinstance(flag.default, float) else str(flag.default)
    if isinstance(flag.default, bool):
        default = "on" if flag.default else "off"
    first, *others = flag.help.split("\n")
    return "\n".join([f"{first} (default: {default}{flag.unit and ' ' + flag.unit})", *others])


def _normalised(arguments: Iterable[str], known: Mapping[str, Flag]) -> list[str]:
    """Rewrites arguments for argparse: known options with dashes, `--flag true` as `--flag`, and `--flag -1e-3`,
    which argparse would read as two options, as `--flag=-1e-3`."""
    switches = {name for name, flag in known.items() if kind_of(flag.type) is bool}
    result: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        dashed, before = name.replace("_", "-"), result[-1] if result else ""
        if dashed in switches and value.lower() in ("true", "false"):
            result.append(_switched(dashed, value))
        elif before in switches and argument.lower() in ("true", "false"):
            result[-1] = _switched(before, argument)
        elif before in known and before not in switches and argument.startswith("-") and _is_number(argument):
            result[-1] += f"={argument}"
        elif dashed in known or dashed.replace("--no-", "--", 1) in switches:
            result.append(dashed + equals + value)
        else:
            result.append(argument)
    return result


def _switched(switch: str, value: str) -> str:
    return switch if value.lower() == "true" else f"--no-{switch[2:]}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def fail(prog: str, message: str) -> NoReturn:
    """Reports a mistake on the command line, and exits with status 2."""
    _told(prog, message)
    raise SystemExit(2)


def _unknown(arguments: Sequence[str], flags: Iterable[Flag], presets: Iterable[str]) -> str:
    """The message for unknown arguments; the first option among them is the culprit."""
    culprit = next((argument for argument in arguments if argument.startswith("-")), None)
    if culprit is None:
        hint = ": the preset comes first" if arguments[0] in presets else " (see --help)"
        return f"unexpected argument {shown(arguments[0])}{hint}"
    known = [option(flag.name) for flag in flags]
    known += [f"--no-{option(flag.name)[2:]}" for flag in flags if kind_of(flag.type) is bool]
    culprit = culprit.split("=")[0]
    culprit = culprit if len(culprit) < 60 else f"{culprit[:40]}..."
    return f"unknown option {culprit}{did_you_mean(culprit, known) or ' (see --help)'}"
