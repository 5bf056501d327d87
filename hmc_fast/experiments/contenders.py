"""The methods that several experiments compare, at the settings of a preset."""

from ..errors import UserError
from .lab import Job, Lab

__all__ = ["approximations", "minibatch_samplers"]


def minibatch_samplers(lab: Lab, seed: int) -> dict[str, Job]:
    """SGLD, SG-HMC and cyclical SG-HMC: three cycles, the first of them burn-in, the last fifth of each kept."""
    epochs = lab.settings.sampler_epochs
    burn_in = min(epochs // 2, 50)
    own = {"cycle_length": 0, "burn_in": burn_in, "draws": epochs - burn_in, "seed": seed}
    jobs = {
        "SGLD": lab.sampler("SGLD", sampler="sgld", **own),
        "SG-HMC": lab.sampler("SG-HMC", sampler="sghmc", **own),
    }
    cycle = max(2, epochs // 3)
    keep = max(1, cycle // 5)
    jobs["cyclical SG-HMC"] = lab.sampler(
        "cyclical SG-HMC",
        sampler="sghmc",
        seed=seed,
        burn_in=cycle,
        draws=2 * keep,
        cycle_length=cycle,
        cycle_keep=keep,
        cycle_exploration=0.0,
    )
    return jobs


def approximations(lab: Lab, seed: int) -> dict[str, Job]:
    """All but HMC itself, from the cheapest; Laplace where its library is installed."""
    s = lab.settings
    jobs = {"SGD": lab.fit("SGD", "sgd", seed=seed)}
    if has_laplace():
        jobs["Laplace (last layer)"] = lab.fit("Laplace", "laplace", seed=seed)
    jobs["SWAG"] = lab.fit("SWAG", "swag", seed=seed)
    jobs["mean-field VI"] = lab.fit("mean-field VI", "mean_field", seed=seed, epochs=2 * s.epochs)
    name = f"deep ensemble of {s.members}"
    jobs[name] = lab.fit(name, "ensemble", seed=seed, members=s.members)
    return jobs


def has_laplace() -> bool:
    import importlib.util

    return importlib.util.find_spec("laplace") is not None


def check_members(lab: Lab) -> None:
    if lab.settings.members < 2:
        raise UserError(f"--members {lab.settings.members} is too few: an ensemble has at least 2 networks")
