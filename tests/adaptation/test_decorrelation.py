"""The learned trajectory length: nearly a quarter period of a Gaussian, in any dimension and for any scale."""

import math

import pytest
import torch

import hmc_fast
from cases import normal
from hmc_fast.adaptation import Decorrelation

QUARTER = math.pi / 2


def learned(density, init, sampler=None, chains=4, burn_in=200, seed=0):
    """Trajectory length over pi/2, after a warm-up by the sampler's own steps."""
    sampler = sampler or hmc_fast.HMC(adapt=True)
    theta = density.initial(init, chains, seed)
    state = sampler.init(density, theta, seed=seed, warm_up_iterations=burn_in)
    for _ in range(burn_in):
        sampler.step(state, warming_up=True)
    return state.adaptation.warm_up.trajectory_length / QUARTER


def independent(dim, scale=1.0):
    return hmc_fast.Density(lambda theta: -0.5 * ((theta / scale) ** 2).sum(), dim)


@pytest.mark.parametrize("dim", [10, 100, 1000, pytest.param(6000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_standard_normal_of_any_dimension(dim, seed):
    """Over three seeds of each .82 to .91, .87 to .93, .88 to .97 and .92 to 1.0."""
    assert 0.75 < learned(independent(dim), "uniform", seed=seed) < 1.2


@pytest.mark.parametrize("burn_in", [60, 200])
def test_units_are_those_of_the_final_metric(burn_in):
    assert 0.7 < learned(independent(10, scale=30.0), "uniform", burn_in=burn_in) < 1.4


def test_chains_with_a_metric_of_their_own():
    assert 0.7 < learned(independent(20), "uniform", hmc_fast.HMC(adapt=True, pool=False)) < 1.4


def test_microcanonical_trajectories():
    assert 0.7 < learned(independent(100), "uniform", hmc_fast.AdjustedMCLMC(adapt=True)) < 1.4


def test_the_distance_between_modes_does_not_count():
    """Two narrow modes, 100 of their standard deviations apart, and chains in both."""
    modes = torch.tensor([[-50.0], [50.0]])

    def log_density(theta):
        return torch.logsumexp(-0.5 * ((theta - modes) ** 2).sum(1), 0)

    init = modes.repeat(2, 1).expand(4, 20) + normal(4, 20)
    sampler = hmc_fast.HMC(adapt=True, inverse_mass=torch.ones(20), num_leapfrog=None)
    density = hmc_fast.Density(log_density, 20)
    theta = density.initial(init, 4, 0)
    state = sampler.init(density, theta, warm_up_iterations=100)
    decorrelation = state.adaptation.warm_up.decorrelation
    for _ in range(100):
        sampler.step(state, warming_up=True)
    assert (state.theta.mean(1).sign() == theta.mean(1).sign()).all(), "no chain changes its mode"
    spread = (theta.max(0).values - theta.min(0).values).min()
    assert spread > 90
    # The metric does count it, and the length is in its units.
    widths = state.adaptation.inverse_mass.sqrt()
    assert 0.6 < float(decorrelation.length * widths.mean()) / QUARTER < 1.6


def test_correlation_makes_trajectories_longer():
    """Equal correlations .9 in ten dimensions: a direction of variance 9.1, which the metric cannot narrow."""
    covariance = 0.9 + 0.1 * torch.eye(10)
    precision = torch.linalg.inv(covariance)
    length = learned(hmc_fast.Density(lambda theta: -0.5 * theta @ precision @ theta, 10), "uniform")
    scales = {  # of the wide direction, where the inverse mass is the variances, and where it is Fisher's
        "variances": 9.1**0.5,
        "Fisher": (9.1 / (1 / torch.diag(precision)[0] / covariance[0, 0]) ** 0.5) ** 0.5,
    }
    assert 0.6 * min(scales.values()) < length < 1.5 * max(scales.values())


def search(length, theta=None):
    found = Decorrelation(torch.zeros(Decorrelation.rows, dtype=torch.float64), *torch.zeros(2, 3, 50))
    found.start(length, torch.zeros(3, 50) if theta is None else theta)
    return found


def walk(found, times, iterations=300, scale=1.0, widths=1.0, offset=0.0):
    """Exact trajectories on N(0, scale^2) in the coordinates theta / widths, lasting `times(length) (C,)`.

    offset: of the first states, in standard deviations.
    """
    generator = torch.Generator().manual_seed(0)
    widths, scale = torch.ones(50) * widths, torch.ones(50) * scale
    x = scale * (torch.randn(3, 50, generator=generator) + offset)
    found.skip(x * widths)
    for _ in range(iterations):
        time = times(float(found.length), generator)
        momentum = torch.randn(3, 50, generator=generator)
        phase = time[:, None] / scale
        x = x * torch.cos(phase) + scale * momentum * torch.sin(phase)
        theta, metric = x * widths, widths[None] ** 2
        found.update(theta, theta, torch.full((3,), 0.8), time.double(), inverse_mass=metric)


def jittered(length, generator):
    return length * (0.5 + torch.rand(1, generator=generator)).expand(3)


@pytest.mark.parametrize("start", [0.1, 0.3, 1.5, 4.0])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_exact_trajectories_from_any_start(start, scale):
    found = search(start)
    walk(found, jittered, scale=scale)
    found.settle()
    assert 0.75 < float(found.length) / (scale * QUARTER) < 1.15


def test_directions_count_in_units_of_the_metric():
    """Five directions that the metric makes narrow, and fast, are by far the widest in theta."""
    found, is_fast = search(1.5), torch.arange(50) < 5
    walk(found, jittered, scale=torch.where(is_fast, 0.05, 1.0), widths=torch.where(is_fast, 1e3, 1.0))
    assert 0.75 < float(found.length) / QUARTER < 1.15


def test_where_chains_came_from_is_forgotten():
    found = search(1.5)
    walk(found, jittered, offset=30.0)
    assert 0.75 < float(found.length) / QUARTER < 1.15


def test_the_search_ends_at_the_average_of_its_path():
    found = search(1.0)
    for _ in range(20):  # nothing moves, so the length grows in every iteration
        theta = torch.ones(3, 50)
        found.update(theta, theta, torch.ones(3), found.length.expand(3), inverse_mass=torch.ones(1, 50))
        found.means.zero_()
    longest = float(found.length)
    assert longest > 2
    found.settle()
    assert 1.5 < float(found.length) < 0.95 * longest


def test_a_chain_whose_steps_are_small_says_nothing():
    def one_is_short(length, generator):
        return jittered(length, generator) * torch.tensor([1.0, 1.0, 0.05])

    found = search(1.5)
    walk(found, one_is_short)
    assert 0.75 < float(found.length) / QUARTER < 1.15


def test_a_length_below_one_step_grows():
    """A single step then takes longer than the length, which must not pass for trajectories that say nothing."""
    found = search(1e-3)
    walk(found, lambda length, generator: torch.full((3,), max(0.1, length)))
    assert float(found.length) > 0.5


def test_new_units_change_the_length_alone():
    found = search(1.5)
    walk(found, jittered)
    before, means = float(found.length), found.means.clone()
    found.rescale(torch.tensor(0.25))
    assert float(found.length) == pytest.approx(before / 4)
    found.settle()
    assert float(found.length) == pytest.approx(QUARTER / 4, rel=0.2)
    assert torch.equal(found.means, means)


@pytest.mark.parametrize("factor", [torch.nan, 0.0, torch.inf])
def test_units_that_are_not_known_change_nothing(factor):
    found = search(1.5)
    found.rescale(torch.tensor(factor))
    assert float(found.length) == pytest.approx(1.5)


def test_chains_that_never_move_end_warm_up_with_a_length():
    """The density has gradients, but no proposal is ever accepted."""
    fixed = torch.ones(3)

    def log_density(theta):
        return theta.sum() + torch.where((theta == fixed).all(), 0.0, torch.nan).detach()

    assert 0 < learned(hmc_fast.Density(log_density, 3), fixed, burn_in=30) < 10


def test_what_is_not_finite_is_left_out():
    found = search(1.5)
    walk(found, jittered, iterations=50)
    before = float(found.length)
    bad = torch.full((3, 50), torch.nan)
    found.update(torch.ones(3, 50), bad, torch.zeros(3), torch.ones(3).double(), inverse_mass=torch.ones(1, 50))
    assert float(found.length) == before
    assert torch.isfinite(found.state).all()
    assert torch.isfinite(found.means).all()
