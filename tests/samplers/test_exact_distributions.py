"""Samplers with a Metropolis test, except HMC, against known distributions at steps so coarse that it matters."""

import numpy as np
import pytest
import torch

import hmc_fast
import targets
from cases import sample
from targets import check_moments, correlated_gaussian, linear_regression, skewed

KNOWN = {"correlated": correlated_gaussian, "skewed": skewed}
SAMPLERS = {
    "ghmc, skewed": ("skewed", lambda: hmc_fast.GHMC(1.1, friction=0.8)),
    "ghmc drifting, skewed": ("skewed", lambda: hmc_fast.GHMC(1.1, friction=0.8, acceptance_drift=0.3)),
    "ghmc, several steps": ("correlated", lambda: hmc_fast.GHMC(0.06, friction=1.0, num_leapfrog=16)),
    "amagold, full batch": ("skewed", lambda: hmc_fast.AMAGOLD(0.9, friction=0.4, num_leapfrog=3)),
}
ON_DATA = {
    "ghmc": lambda: hmc_fast.GHMC(0.08, friction=6.0),
    "split_hmc": lambda: hmc_fast.SplitHMC(0.14, num_splits=3, num_leapfrog=2),
    "split_hmc, with mass": lambda: hmc_fast.SplitHMC(
        0.75, num_splits=3, num_leapfrog=1, inverse_mass=torch.tensor([0.01, 0.02])
    ),
    "split_hmc, two subsets": lambda: hmc_fast.SplitHMC(0.1, num_splits=2, num_leapfrog=2),
    "amagold": lambda: hmc_fast.AMAGOLD(0.022, friction=1.0, batch_size=24, num_leapfrog=3),
    "amagold, with mass": lambda: hmc_fast.AMAGOLD(
        0.2, friction=0.2, batch_size=24, num_leapfrog=3, inverse_mass=torch.tensor([0.01, 0.012])
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_samplers_match_known_moments(name):
    target, make = SAMPLERS[name]
    known = KNOWN[target]()
    run = sample(
        known.density,
        make(),
        chains=512,
        burn_in=40,
        draws=40,
        init=torch.tensor(known.mean),
    )
    assert 0.3 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.parametrize("name", ON_DATA)
def test_exact_samplers_match_a_posterior_in_closed_form(name):
    posterior, known = linear_regression()
    run = sample(
        posterior,
        ON_DATA[name](),
        chains=512,
        burn_in=40,
        draws=32,
        init=torch.tensor(known.mean),
    )
    assert 0.3 < run.acceptance_rate < 0.95
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.parametrize(
    "make",
    [
        lambda: hmc_fast.GHMC(0.8, friction=0.8),
        lambda: hmc_fast.AMAGOLD(0.6, friction=0.4, num_leapfrog=3),
        lambda: hmc_fast.AdjustedMCLMC(1.2, num_leapfrog=3, jitter=0.4),
        lambda: hmc_fast.MCLMC(0.5, decoherence_length=2.0, steps_per_iteration=6),
    ],
)
def test_temperature_widens_the_distribution(make):
    density = hmc_fast.Density(
        lambda theta: -0.5 * (theta**2).sum(), 4, temperature=2.5, dtype=torch.float64
    ).prepared(path="eager" if targets.PATH == "captured" else targets.PATH)
    run = hmc_fast.run(density, make(), chains=512, burn_in=40, draws=40, progress=False)
    check_moments(run.draws, np.zeros(4), np.full(4, 2.5), bias=0.03 if run.acceptance_rate is None else 0.0)


def test_ghmc_keeps_its_momentum_and_turns_it_at_a_rejection():
    known = skewed()
    sampler = hmc_fast.GHMC(1.8, friction=1e-3)  # hardly any of the momentum is new
    state = sampler.init(known.density, torch.zeros(64, 2, dtype=torch.float64), seed=0)
    turned = moved = 0
    for _ in range(20):
        before = state.momentum.clone()
        _, info = sampler.step(state)
        kept = torch.where(info.accepted[:, None], state.proposal.momentum, -state.origin.momentum)
        assert torch.equal(state.momentum, kept)
        share = (before * state.origin.momentum).sum(1) / (before.norm(dim=1) * state.origin.momentum.norm(dim=1))
        assert (share > 0.5).float().mean() > 0.9, "the old momentum lives on"
        turned, moved = turned + int((~info.accepted).sum()), moved + int(info.accepted.sum())
    assert turned > 10
    assert moved > 10


def test_the_acceptance_variable_stays_uniform():
    """Its distribution must be that of fresh uniforms, whatever the target."""
    if targets.PATH in ("compiled", "loop"):
        pytest.skip("the distribution is tested above")
    known = skewed()
    sampler = hmc_fast.GHMC(1.1, friction=0.8, acceptance_drift=0.3)
    state = sampler.init(known.density, torch.tensor(known.mean).repeat(256, 1), seed=0)
    values = []
    for iteration in range(300):
        sampler.step(state)
        if iteration >= 60 and iteration % 12 == 0:
            values.append(state.acceptance_variable.clone())
    values = torch.cat(values).numpy()
    assert (np.abs(values) <= 1).all()
    counts = np.histogram(values, 20, (-1, 1))[0]
    expected = len(values) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 19 + 6 * np.sqrt(2 * 19), counts


def test_more_splits_or_a_larger_batch_than_data_are_refused():
    posterior, _ = linear_regression(num_data=8)
    theta = posterior.initial("prior", 1, 0)
    with pytest.raises(hmc_fast.UserError, match="splits 9 must not exceed the 8"):
        hmc_fast.SplitHMC(0.1, num_splits=9, num_leapfrog=1).init(posterior, theta)
    with pytest.raises(hmc_fast.UserError, match="batch size 9 must lie between 1 and the 8"):
        hmc_fast.AMAGOLD(0.1, friction=1.0, batch_size=9).init(posterior, theta)
