"""The samplers under test, a small classifier, and runs of them."""

import functools

import pytest
import torch
from torch import nn

import hmc_fast


def adapting():
    """Every chain for itself, so that one chain's draws do not depend on the others'."""
    sampler = hmc_fast.HMC(adapt=True, pool=False, num_leapfrog=4, jitter=0.0)
    sampler.init = functools.partial(sampler.init, warm_up_iterations=20)
    return sampler


SAMPLERS = {
    "hmc": lambda: hmc_fast.HMC(0.05, num_leapfrog=4),
    "hmc_jittered": lambda: hmc_fast.HMC(0.05, trajectory_length=0.3, jitter=0.4, test_in_burn_in=False),
    "hmc_two_stage": lambda: hmc_fast.HMC(0.02, num_leapfrog=4, integrator=hmc_fast.TWO_STAGE),
    "hmc_adapting": adapting,
    "ghmc": lambda: hmc_fast.GHMC(0.05, friction=2.0),
    "ghmc_drifting": lambda: hmc_fast.GHMC(0.05, friction=2.0, num_leapfrog=3, acceptance_drift=0.3),
    "split_hmc": lambda: hmc_fast.SplitHMC(0.02, num_splits=3, num_leapfrog=2),
    "amagold": lambda: hmc_fast.AMAGOLD(0.005, friction=2.0, batch_size=16),
    "amagold_full_batch": lambda: hmc_fast.AMAGOLD(0.003, friction=0.0, num_leapfrog=4),
    "mclmc": lambda: hmc_fast.MCLMC(0.02, steps_per_iteration=4),
    "mclmc_minibatch": lambda: hmc_fast.MCLMC(0.02, decoherence_length=0.5, batch_size=16, steps_per_iteration=4),
    "adjusted_mclmc": lambda: hmc_fast.AdjustedMCLMC(0.02, num_leapfrog=4),
    "sghmc": lambda: hmc_fast.SGHMC(0.02, friction=5.0, batch_size=16),
    "sghmc_full_batch": lambda: hmc_fast.SGHMC(0.02, friction=5.0, steps_per_iteration=4, refresh_interval=2),
    "sghmc_cyclical": lambda: hmc_fast.SGHMC(
        0.02, friction=5.0, batch_size=20, schedule=hmc_fast.CosineCyclical(3, keep=2, exploration=0.2)
    ),
    "sgld": lambda: hmc_fast.SGLD(1e-4, batch_size=16, schedule=hmc_fast.PolynomialDecay(20.0)),
    "sgld_cyclical": lambda: hmc_fast.SGLD(
        1e-4, batch_size=20, schedule=hmc_fast.CosineCyclical(3, keep=2, exploration=0.2)
    ),
    "psgld": lambda: hmc_fast.PSGLD(1e-3, batch_size=16, adapt_after_burn_in=True),
    "sgnht": lambda: hmc_fast.SGNHT(0.02, friction=5.0, batch_size=16),
    "baoab": lambda: hmc_fast.UnderdampedLangevin(0.03, friction=50.0, batch_size=16),
    "obabo": lambda: hmc_fast.UnderdampedLangevin(0.03, friction=5.0, scheme="obabo", steps_per_iteration=4),
    "ubu": lambda: hmc_fast.UBU(0.03, friction=5.0, steps_per_iteration=4),
    "smsubu": lambda: hmc_fast.SMSUBU(0.02, friction=5.0, batch_size=16),
    "smsubu_anchored": lambda: hmc_fast.SMSUBU(
        0.02, friction=5.0, batch_size=16, control_variate=True, localisation=20.0
    ),
    "ubu_cyclical": lambda: hmc_fast.UBU(
        0.02, friction=5.0, batch_size=20, schedule=hmc_fast.CosineCyclical(3, keep=2, exploration=0.2)
    ),
}


def some_slow(names, *, fast):
    """Parameters of which only those in `fast` run in `make test`."""
    assert set(fast) <= set(names)
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


# What `go` runs: jittered trajectories, adaptation with all chains pooled, minibatches in cycles.
RUNS = {
    "hmc": SAMPLERS["hmc_jittered"],
    "hmc_adapting": lambda: hmc_fast.HMC(adapt=True),
    "sghmc": SAMPLERS["sghmc_cyclical"],
}


def classifier(prior=None, **options):
    """A three-class problem that a small network half solves: (posterior, test inputs, test labels)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(120, generator=generator) > 0).long() + (x[:, 1] > 0.5).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return (
        hmc_fast.Posterior(model, (x[:80], y[:80]), prior=prior or hmc_fast.Normal(0.5), **options),
        x[80:],
        y[80:],
    )


def go(name="hmc", **options):
    """A short run of `RUNS[name]` on the classifier."""
    posterior, x, y = classifier()
    options = {"chains": 2, "burn_in": 3, "draws": 12, "test": (x, y), "progress": False} | options
    return hmc_fast.run(posterior, RUNS[name](), **options)


def sample(target, sampler, **options):
    """A run without a bar whose draws are not rounded to float16."""
    return hmc_fast.run(target, sampler, **{"progress": False, "draw_dtype": torch.float32} | options)


def data(num=20, dtype=torch.float64):
    """Inputs `(num, 4)` and labels of three classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 4, generator=generator, dtype=dtype)
    return x, torch.randint(0, 3, (num,), generator=generator)


def network(dtype=torch.float64):
    """A network for `data`."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def state_of(sampler, posterior, seed=1):
    """Three chains of `linear_regression` that begin at its true weights."""
    return sampler.init(posterior, posterior.initial(torch.tensor([1.0, -2.0]), 3, 0), seed=seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(chains, dim, seed=0):
    """Unit vectors, `(chains, dim)`."""
    u = normal(chains, dim, seed=seed)
    return u / u.norm(dim=1, keepdim=True)
