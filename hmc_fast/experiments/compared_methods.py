"""The methods that several experiments compare, by key, with the settings of a preset."""

import importlib

from ..errors import UserError
from .run_cache import Job, Lab

__all__ = ["approximations", "check_members", "minibatch_samplers", "missing_laplace"]


def minibatch_samplers(lab: Lab, seed: int) -> dict[str, Job]:
    """SGLD, SG-HMC and cyclical SG-HMC by key. Cycles have 50 epochs as in Izmailov et al. 2021, or fewer so that
    there are three; the first cycle is burn-in, and the last fifth of every other cycle is kept."""
    epochs = lab.sampler_epochs
    burn_in = min(epochs // 2, 100)
    own = {"cycle_length": 0, "burn_in": burn_in, "draws": epochs - burn_in, "seed": seed}
    cycle = max(2, min(50, epochs // 3))
    keep = max(1, cycle // 5)
    cyclical = {
        "burn_in": cycle,
        "draws": max(1, epochs // cycle - 1) * keep,
        "cycle_length": cycle,
        "cycle_keep": keep,
        "cycle_exploration": 0.0,
        "seed": seed,
    }
    return {
        "sgld": lab.minibatch("SGLD", "sgld", **own),
        "sghmc": lab.minibatch("SG-HMC", "sghmc", **own),
        "cyclical_sghmc": lab.minibatch("cyclical SG-HMC", "sghmc", **cyclical),
    }


def approximations(lab: Lab, seed: int) -> dict[str, Job]:
    """The methods of `approximations.py` by key, cheapest first; Laplace only if its library is installed."""
    members = lab.settings.members
    jobs = {"sgd": lab.fit("SGD", "sgd", seed=seed)}
    if not missing_laplace():
        jobs["laplace"] = lab.fit("Laplace (last layer)", "laplace", seed=seed)
    jobs["swag"] = lab.fit("SWAG", "swag", seed=seed)
    jobs["mean_field"] = lab.fit("mean-field VI", "mean_field", seed=seed, epochs=2 * lab.epochs)
    jobs["ensemble"] = lab.fit(f"deep ensemble of {members}", "ensemble", seed=seed, members=members)
    return jobs


def missing_laplace() -> str:
    """A sentence for the page on why laplace-torch cannot be used; empty if it can."""
    try:
        importlib.import_module("laplace")
    except Exception as error:  # one of its dependencies may fail in any way
        absent = isinstance(error, ModuleNotFoundError) and error.name == "laplace"
        why = "is not installed" if absent else f"cannot be imported ({error})"
        return f" Laplace is left out: laplace-torch {why}; pip install 'hmc_fast[laplace]'."
    return ""


def check_members(lab: Lab) -> None:
    if lab.settings.members < 2:
        raise UserError(f"--members {lab.settings.members} is too few: an ensemble has at least 2 networks")
