"""The methods that several experiments compare, at the settings of a preset."""

from ..errors import UserError
from .lab import Job, Lab

__all__ = ["approximations", "minibatch_samplers"]


def minibatch_samplers(lab: Lab, seed: int) -> dict[str, Job]:
    """SGLD, SG-HMC and cyclical SG-HMC; each chain sees about as many epochs as `--epochs`, half of them burn-in,
    but on digits, where these are few, as many as its preset says."""
    epochs = lab.settings.epochs
    own: dict[str, int] = {} if lab.preset == "digits" else {"burn_in": epochs // 2, "draws": epochs - epochs // 2}
    jobs = {
        "SGLD": lab.sampler("SGLD", sampler="sgld", seed=seed, cycle_length=0, **own),
        "SG-HMC": lab.sampler("SG-HMC", sampler="sghmc", seed=seed, cycle_length=0, **own),
    }
    cycle = max(2, (150 if lab.preset == "digits" else epochs) // 3)
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
    jobs["mean-field VI"] = lab.fit("mean-field VI", "mean_field", seed=seed, epochs=4 * s.epochs)
    name = f"deep ensemble of {s.members}"
    jobs[name] = lab.fit(name, "ensemble", seed=seed, members=s.members)
    return jobs


def has_laplace() -> bool:
    import importlib.util

    return importlib.util.find_spec("laplace") is not None


def check_members(lab: Lab) -> None:
    if lab.settings.members < 2:
        raise UserError(f"--members {lab.settings.members} is too few: an ensemble has at least 2 networks")
