"""Prior families at a given variance, per parameter group, and draws from them."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import hmc_fast
from hmc_fast.kernels import ops
from hmc_fast.kernels.prior import grad, log_density
from hmc_fast.targets import prior_table
from hmc_fast.targets.flat_module import FlatModel

VARIANCE = 0.3
FAMILIES = {
    "normal": (hmc_fast.Normal(VARIANCE), stats.norm(scale=VARIANCE**0.5)),
    "laplace": (hmc_fast.Laplace(VARIANCE), stats.laplace(scale=(VARIANCE / 2) ** 0.5)),
    "logistic": (hmc_fast.Logistic(VARIANCE), stats.logistic(scale=(3 * VARIANCE) ** 0.5 / np.pi)),
    "student_t": (hmc_fast.StudentT(VARIANCE, 5.0), stats.t(5.0, scale=(VARIANCE * 3 / 5) ** 0.5)),
    "mixture": (hmc_fast.Mixture(VARIANCE, weight=0.3, ratio=0.2), None),
}


def table(prior, size=1):
    return prior_table.segments(prior, FlatModel(nn.Linear(size, 1, bias=False)))


@pytest.mark.parametrize("name", FAMILIES)
def test_density_is_normalised_and_has_the_variance(name):
    prior, known = FAMILIES[name]
    (segment,) = table(prior)

    def density(x):
        return float(torch.exp(log_density(torch.tensor([[x]], dtype=torch.float64), segment)))

    total, _ = integrate.quad(density, -40, 40, points=[0.0], limit=400)
    variance, _ = integrate.quad(lambda x: x * x * density(x), -40, 40, points=[0.0], limit=400)
    assert total == pytest.approx(1.0, abs=1e-6)
    assert variance == pytest.approx(VARIANCE, rel=2e-4)
    assert prior.variance == VARIANCE
    if known is not None:
        for x in (-30.0, -1.0, 0.0, 0.2, 5.0):
            value = log_density(torch.tensor([[x]], dtype=torch.float64), segment).item()
            assert value == pytest.approx(known.logpdf(x), rel=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_is_the_derivative_far_out_too(name):
    (segment,) = table(FAMILIES[name][0])
    x = torch.tensor([[-500.0, -3.0, -0.01, 0.02, 0.5, 40.0]], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(log_density(x, segment).sum(), x)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(grad(x.detach(), segment), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_follow_the_density(name):
    prior, known = FAMILIES[name]
    flat = FlatModel(nn.Linear(4000, 1, bias=False))
    segments = prior_table.segments(prior, flat)
    uniform = torch.rand(2, 4000, generator=torch.Generator().manual_seed(0))
    second = torch.rand(2, 4000, generator=torch.Generator().manual_seed(1))
    draws = prior_table.sample(segments, uniform, second).flatten().numpy()
    if known is None:
        wide = VARIANCE / (0.3 + 0.7 * 0.04)
        cdf = lambda x: 0.3 * stats.norm.cdf(x, scale=wide**0.5) + 0.7 * stats.norm.cdf(x, scale=0.2 * wide**0.5)  # noqa: E731
    else:
        cdf = known.cdf
    assert stats.kstest(draws, cdf).pvalue > 1e-3


def network():
    return FlatModel(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))  # 12, 4, 8, 2


def test_groups_get_their_own_variance():
    flat = network()
    prior = hmc_fast.PerGroup({"2.*": hmc_fast.Normal(4.0), "*.bias": hmc_fast.Normal(9.0)}, hmc_fast.Normal(1.0))
    (segment,) = prior_table.segments(prior, flat)  # one family: one segment, one launch
    expected = [1.0] * 12 + [3.0] * 4 + [2.0] * 10  # the first pattern that matches decides
    assert segment.scale.tolist() == pytest.approx(expected)
    theta = torch.randn(2, 26)
    value = ops.log_prior(theta, (segment,))
    known = stats.norm(scale=expected).logpdf(theta.numpy()).sum(1)
    np.testing.assert_allclose(value.numpy(), known, rtol=1e-6)


def test_families_are_segments_and_equal_neighbours_merge():
    prior = hmc_fast.PerGroup(
        {"*.bias": hmc_fast.Laplace(1.0), "2.bias": hmc_fast.Laplace(1.0)}, hmc_fast.Normal(1.0)
    )
    segments = prior_table.segments(prior, network())
    kinds = [(s.start, s.stop, s.family) for s in segments]
    assert kinds == [(0, 12, ops.NORMAL), (12, 16, ops.LAPLACE), (16, 24, ops.NORMAL), (24, 26, ops.LAPLACE)]
    prior = hmc_fast.PerGroup({"0.bias": hmc_fast.Laplace(1.0), "2.weight": hmc_fast.Laplace(5.0)})
    assert [s.stop for s in prior_table.segments(prior, network())] == [12, 24, 26]
    prior = hmc_fast.PerGroup({"0.*": hmc_fast.StudentT(1.0, 4.0)}, hmc_fast.StudentT(1.0, 9.0))
    shapes = [(s.stop, s.shape[0]) for s in prior_table.segments(prior, network())]
    assert shapes == [(16, 4.0), (26, 9.0)], "degrees of freedom belong to a segment"


def test_fan_in_divides_the_variance():
    (segment,) = prior_table.segments(hmc_fast.PerGroup(default=hmc_fast.Normal(1.0), fan_in=True), network())
    expected = [3**-0.5] * 12 + [1.0] * 4 + [0.5] * 8 + [1.0] * 2
    assert segment.scale.tolist() == pytest.approx(expected)


def test_a_posterior_uses_its_groups():
    x, y = torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)
    prior = hmc_fast.PerGroup({"bias": hmc_fast.Laplace(1.0)}, hmc_fast.Normal(2.0))
    posterior = hmc_fast.Posterior(nn.Linear(3, 2), (x, y), prior=prior)
    theta = posterior.initial("prior", 2, 0)
    _, grad = posterior.potential_and_grad(theta)
    row = theta[1].clone().requires_grad_()
    log_density = (
        -nn.functional.cross_entropy(posterior.flat(row, x), y, reduction="sum")
        + torch.distributions.Normal(0.0, 2**0.5).log_prob(row[:6]).sum()
        + torch.distributions.Laplace(0.0, 0.5**0.5).log_prob(row[6:]).sum()
    )
    torch.testing.assert_close(grad[1], -torch.autograd.grad(log_density, row)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hmc_fast.Normal(0.0), "prior variance 0.0 must be a positive number"),
        (lambda: hmc_fast.Laplace(float("nan")), "prior variance nan"),
        (lambda: hmc_fast.StudentT(1.0, 2.0), "degrees of freedom 2.0"),
        (lambda: hmc_fast.Mixture(1.0, weight=1.0), "mixture weight 1.0"),
        (lambda: hmc_fast.Mixture(1.0, ratio=0.0), "mixture ratio 0.0"),
        (
            lambda: prior_table.segments(hmc_fast.PerGroup({"x*": hmc_fast.Normal()}), network()),
            r"'x\*' matches no parameter",
        ),
    ],
)
def test_mistakes_name_the_value(make, message):
    with pytest.raises(hmc_fast.UserError, match=message):
        make()
