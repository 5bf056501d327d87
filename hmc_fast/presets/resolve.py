"""Makes a run specification from a preset and the user's flags, or from the `config.json` of a run to resume."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ..arguments import shown
from ..checked_files import Unreadable, read_json
from ..command_line import Flag, flags_of, option
from ..engine.output import is_unbegun
from ..errors import UserError
from ..flag_values import fits
from ..targets.priors import suggested_trajectory_length
from .sampler_arguments import (
    SAMPLERS,
    argument_types,
    arguments_of,
    make_sampler,
    sampler_flags,
    summaries,
    with_arguments,
)
from .settings import FREE_ON_RESUME, TRAINING_FLAGS, SampleSettings
from .table import PRESETS, RunSpecification, adapting, preset_run

__all__ = ["resolve", "resumed", "sample_flags"]

_SETTINGS = {field.name for field in fields(SampleSettings)}


def resolve(preset: str, given: Mapping[str, Any] | None = None) -> RunSpecification:
    """The preset's run with the user's changes, which are named as flags and include the sampler.

    Raises:
        UserError: a value that the sampler rejects, a prior variance that is not positive, or a setting that the
            sampler does not have.
    """
    given = dict(given or {})
    run = preset_run(preset, given.pop("sampler", next(iter(PRESETS[preset]))))
    changes = {name: given.pop(name) for name in _SETTINGS & set(given)}  # the rest are sampler settings
    sampler = run.sampler
    if given.get("adapt") and not arguments_of(sampler).get("adapt", True):
        # Everything not given is learned. The Metropolis test stays on in burn-in too, so that a step size that is
        # still wrong cannot carry a chain away.
        sampler = make_sampler(sampler.name, {"adapt": True})
        run = adapting(run, sampler)
    for name in TRAINING_FLAGS:
        if name in changes and changes.get("init", run.settings.init) != "train":
            raise UserError(f"{option(name)} is a setting of --init train: add that, or leave {option(name)} out")
    variance = changes.get("prior_variance", run.settings.prior_variance)
    if not (math.isfinite(variance) and variance > 0):
        raise UserError(f"--prior-variance {variance} must be a positive number")
    usual = suggested_trajectory_length(run.settings.prior_variance)
    of_prior = arguments_of(sampler).get("trajectory_length") == usual
    if of_prior and not given.keys() & {"trajectory_length", "num_leapfrog"}:
        given["trajectory_length"] = suggested_trajectory_length(variance)
    return RunSpecification(replace(run.settings, **changes), with_arguments(sampler, given))


def resumed(given: Mapping[str, Any], preset: str | None) -> RunSpecification:
    """The run in the directory `given["out"]`, with those settings updated that may change on resuming.

    preset: None if the command names none.

    Raises:
        UserError: there is no such run, or a setting that affects its draws differs from the run's.
    """
    if given.get("out") is None:
        raise UserError("--resume needs --out, the directory of the run to continue")
    path = given["out"] / "config.json"
    if not path.is_file():
        if is_unbegun(given["out"]):  # cut off before it was written
            return resolve(preset or next(iter(PRESETS)), given)
        raise UserError(f"{path} does not exist: there is no run to resume")
    config = _read_config(path)
    try:
        sampler = make_sampler(
            config["sampler"], {name: config[name] for name in argument_types(config["sampler"])}
        )
    except UserError as error:
        raise UserError(f"{path} is not the config.json of a run: {error}") from error
    # "device" in config.json is the name of the hardware, not the setting
    stored = {name: config[name] for name in _SETTINGS - {"device"}} | {"data_dir": Path(config["data_dir"])}
    if preset is not None and preset != stored["preset"]:
        raise UserError(
            f"the run in {given['out']} has preset {stored['preset']}, not {preset}: leave the preset out"
        )
    for name in sorted(set(given) - FREE_ON_RESUME):
        if name not in config:
            with_arguments(sampler, {name: given[name]})  # its error lists the samplers that have the setting
        if given[name] != config[name]:
            raise UserError(
                f"{option(name)} {given[name]} differs from the run in {given['out']}, "
                f"which has {config[name]}: a run can only be resumed with its own settings"
            )
    free = {name: value for name, value in given.items() if name in FREE_ON_RESUME}
    return RunSpecification(SampleSettings(**stored | free), sampler)


def _read_config(path: Path) -> dict[str, Any]:
    """All settings of a run, of the right types. Raises UserError if one is missing or has another type."""
    try:
        config = read_json(path)
    except Unreadable as error:
        raise UserError(f"{path} is not the config.json of a run: it {error}") from error
    name = config.get("sampler")
    if not (isinstance(name, str) and name in SAMPLERS):
        raise UserError(f"{path} is not the config.json of a run: sampler {shown(name)} is unknown")
    kinds = get_type_hints(SampleSettings) | argument_types(name)
    del kinds["device"]
    for setting, kind in kinds.items():
        if setting not in config or not fits(config[setting], kind):
            found = f"has {shown(config[setting])} as" if setting in config else "lacks"
            raise UserError(f"{path} is not the config.json of a run: it {found} {setting!r}")
    return config


def sample_flags(preset: str, given: Mapping[str, Any]) -> list[Flag]:
    """The flags of `python -m hmc_fast.sample`, with the defaults of a preset and of the sampler given."""
    run = resolve(preset, {name: value for name, value in given.items() if name == "sampler"})
    sampler = Flag(
        "sampler",
        Literal[tuple(SAMPLERS)],
        f"The sampler.\n{summaries()}",
        "Sampler",
        next(iter(PRESETS[preset])),
    )
    return [sampler, *sampler_flags(run.sampler), *flags_of(run.settings)]
