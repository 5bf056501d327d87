"""`Density`: values and gradients of all chains, where they begin, what is refused."""

import pytest
import torch

import hmc_fast
from targets import linear_regression


def test_density_is_vectorised_over_chains():
    density = hmc_fast.Density(lambda t: -(t**4).sum() + t[0], 3, temperature=2.0, dtype=torch.float64)
    theta = torch.randn(5, 3, dtype=torch.float64)
    potential, grad = density.potential_and_grad(theta)
    torch.testing.assert_close(potential, ((theta**4).sum(1) - theta[:, 0]) / 2)
    torch.testing.assert_close(grad, (4 * theta**3 - torch.tensor([1.0, 0, 0])) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hmc_fast.Density(lambda t: t.sum(), 0), "dim 0 must be at least 1"),
        (lambda: hmc_fast.Density(lambda t: t.detach().sum(), 2), "the log density has no gradient"),
        (lambda: hmc_fast.Density(lambda t: t, 2), r"returned \(2,\) for one point"),
        (lambda: hmc_fast.Density(lambda t: t.sum(), 2, temperature=-1.0), "temperature -1.0"),
        (
            lambda: hmc_fast.Density(lambda t: t.sum(), 2).initial("prior", 1, 0),
            "flat prior cannot be sampled: use",
        ),
        (lambda: hmc_fast.Density(lambda t: t.sum(), 2).initial("model", 1, 0), "init 'model' is unknown"),
    ],
)
def test_density_mistakes(make, message):
    with pytest.raises(hmc_fast.UserError, match=message):
        make()


def test_a_bare_density_begins_uniformly_unless_told_otherwise():
    density = hmc_fast.Density(lambda t: -(t**2).sum(), 200)
    theta = density.initial("default", 4, 0)
    assert torch.equal(theta, density.initial("uniform", 4, 0))
    assert -2 < theta.min() < -1.9
    assert 1.9 < theta.max() < 2
    assert not torch.equal(theta[0], theta[1])
    posterior, _ = linear_regression()
    assert torch.equal(posterior.initial("default", 2, 0), posterior.initial("prior", 2, 0))
