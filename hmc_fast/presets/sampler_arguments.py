"""The command-line interface of the samplers: names, and flags derived from constructors and their docstrings.

A sampler stores every constructor argument under the argument's name, so its settings can be read back.
"""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from .. import samplers
from ..command_line import Flag, option
from ..dynamics.integrators import INTEGRATORS, Integrator
from ..dynamics.schedules import CosineCyclical
from ..errors import UserError
from ..samplers import MCLMC, Sampler, UnderdampedLangevin

__all__ = [
    "SAMPLERS",
    "argument_types",
    "arguments_of",
    "make_sampler",
    "sampler_flags",
    "summaries",
    "with_arguments",
]

_SCHEMES = ("baoab", "obabo")  # the names of UnderdampedLangevin, one per scheme

# By the name that --sampler takes.
SAMPLERS: dict[str, type[Any]] = {
    name: kind for kind in samplers.SAMPLERS for name in (_SCHEMES if kind is UnderdampedLangevin else (kind.name,))
}

# The arguments of the cosine schedule, as flags of every sampler that takes a schedule.
_CYCLE = {"cycle_length": "cycle_length", "cycle_keep": "keep", "cycle_exploration": "exploration"}
_NO_CYCLE = {"cycle_length": 0, "cycle_keep": 1, "cycle_exploration": 0.0}


def make_sampler(name: str, arguments: Mapping[str, Any]) -> Sampler:
    """The sampler with that name and with arguments named as flags.

    Raises:
        UserError: an argument that the sampler does not have, or a value that it rejects.
    """
    takes = argument_types(name)
    for argument in arguments:
        if argument not in takes:
            takers = ", ".join(other for other in SAMPLERS if argument in argument_types(other))
            raise UserError(
                f"{option(argument)} is not a setting of --sampler {name}: leave it out, or use one of {takers}"
            )
    values = dict(arguments)
    if "cycle_length" in takes:
        cycle = {keyword: values.pop(flag, _NO_CYCLE[flag]) for flag, keyword in _CYCLE.items()}
        values["schedule"] = CosineCyclical(**cycle) if cycle["cycle_length"] else None
    if "integrator" in values:
        values["integrator"] = INTEGRATORS[values["integrator"]]
    if SAMPLERS[name] is UnderdampedLangevin:
        values["scheme"] = name
    return cast(Sampler, SAMPLERS[name](**values))


def arguments_of(sampler: Sampler) -> dict[str, Any]:
    """The arguments that recreate this sampler, named as flags."""
    arguments = {}
    for name in argument_types(sampler.name):
        if name in _CYCLE:
            schedule = vars(sampler)["schedule"]
            arguments[name] = _NO_CYCLE[name] if schedule is None else getattr(schedule, _CYCLE[name])
        else:  # a sampler that replaces an argument stores the original as `given_...`
            value = vars(sampler).get(f"given_{name}", vars(sampler)[name])
            arguments[name] = value.name if isinstance(value, Integrator) else value
    if arguments.get("trajectory_length") is not None:
        arguments["num_leapfrog"] = None  # derived from the length
    return arguments


def with_arguments(sampler: Sampler, changes: Mapping[str, Any]) -> Sampler:
    """A sampler of the same kind with some arguments, named as flags, changed.

    Raises:
        UserError: see `make_sampler`.
    """
    arguments = arguments_of(sampler) | dict(changes)
    # The length can be given in two ways; the new one replaces the old.
    for new, old in (("trajectory_length", "num_leapfrog"), ("num_leapfrog", "trajectory_length")):
        if new in changes and old in arguments and old not in changes:
            arguments[old] = None
    if isinstance(sampler, MCLMC) and "step_size" in changes and "adapt" not in changes:
        arguments["adapt"] = None  # adapts only if no step size is given
    return make_sampler(sampler.name, arguments)


def sampler_flags(sampler: Sampler) -> list[Flag]:
    """The flags of all samplers, starting with those of `sampler`, whose values are the defaults."""
    values = arguments_of(sampler)
    chosen, others = f"Settings of {sampler.name}", "Settings of other samplers"
    names = dict.fromkeys([*values, *(flag for name in SAMPLERS for flag in argument_types(name))])
    return [
        Flag(name, _type(name), _help(name, sampler.name), chosen if name in values else others, values.get(name))
        for name in names
    ]


def summaries() -> str:
    """One line per sampler: the first sentence of its class docstring."""
    lines = []
    for name, kind in SAMPLERS.items():
        sentence = " ".join(str(inspect.getdoc(kind)).split("\n\n")[0].split()).split(". ")[0].rstrip(".")
        scheme = f", {name.upper()} splitting" if kind is UnderdampedLangevin else ""
        lines.append(f"{name}: {sentence}{scheme}.")
    return "\n".join(lines)


@cache
def argument_types(name: str) -> dict[str, Any]:
    """The flags of a sampler and their types: the constructor arguments that can be given on a command line."""
    takes: dict[str, Any] = {}
    hints = get_type_hints(SAMPLERS[name].__init__)
    for argument in inspect.signature(SAMPLERS[name]).parameters:
        if argument == "schedule":
            takes |= {flag: float if flag == "cycle_exploration" else int for flag in _CYCLE}
        elif argument == "integrator":
            takes[argument] = Literal[tuple(INTEGRATORS)]
        elif argument != "scheme" and _is_simple(hints[argument]):  # the sampler's name determines the scheme
            takes[argument] = hints[argument]
    return takes


def _is_simple(annotation: Any) -> bool:
    """Whether it can be given on a command line: a number, a switch, a choice of words, or one of these or None."""
    if get_origin(annotation) in (Union, UnionType):
        return all(kind is NoneType or _is_simple(kind) for kind in get_args(annotation))
    return annotation in (int, float, bool) or get_origin(annotation) is Literal


def _type(flag: str) -> Any:
    return next(argument_types(name)[flag] for name in SAMPLERS if flag in argument_types(name))


def _help(flag: str, chosen: str) -> str:
    """The flag's documentation: one line for each meaning, the chosen sampler's first."""
    meanings: dict[str, list[str]] = {}
    for name in sorted(
        (name for name in SAMPLERS if flag in argument_types(name)), key=lambda name: name != chosen
    ):
        kind, argument = (CosineCyclical, _CYCLE[flag]) if flag in _CYCLE else (SAMPLERS[name], flag)
        meanings.setdefault(_documented(kind)[argument], []).append(name)
    return "\n".join(f"{', '.join(names)}: {meaning}" for meaning, names in meanings.items())


def _documented(kind: type[Any]) -> dict[str, str]:
    """The `Args:` of a class docstring, by argument; "as for `HMC`" is replaced by the text in `HMC`."""
    documented = {}
    section = re.search(
        r"^(?:Args|Attributes):\n(.*?)(?:\n\n|\Z)", str(inspect.getdoc(kind)), re.DOTALL | re.MULTILINE
    )
    entries = re.split(r"\n    (?=\S)", "\n" + section[1]) if section else []
    for entry in filter(None, entries):
        names, _, text = " ".join(entry.split()).partition(": ")
        reference = re.match(r"as (?:for|in) `?(\w+)`?", text)
        for name in names.split(", "):
            if reference:
                (other,) = {kind for kind in SAMPLERS.values() if kind.__name__ == reference[1]}
                documented[name] = _documented(other)[name]
            else:
                documented[name] = text.replace("`", "")
    return documented
