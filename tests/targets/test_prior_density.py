"""Priors with means, torch distributions and functions of parameters: their values, gradients and mistakes."""

import numpy as np
import pytest
import torch
from torch import distributions as D
from torch import nn

import hmc_fast
from cases import sample
from hmc_fast.kernels import ops
from hmc_fast.targets import prior_table

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.zeros(12, dtype=torch.int64)


def network(seed=0):
    """12, 4, 8 and 2 parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def posterior(prior, **options):
    return hmc_fast.Posterior(network(), (X, Y), prior=prior, **options)


MEAN = network(7)
ROW = torch.cat([p.detach().reshape(-1) for p in MEAN.parameters()])
HALF = D.Normal(0.0, 0.5)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64).squeeze()


def about(mean, deviation, family=D.Normal):
    """Of float64 numbers: those that torch makes of Python's are float32."""
    return family(*(torch.as_tensor(v, dtype=torch.float64) for v in (mean, deviation)))


def horseshoe(parameters):
    scale = parameters["2.bias"].exp().sum()
    return (
        D.Laplace(0.0, scale).log_prob(parameters["0.weight"]).sum()
        + D.Normal(0, 3.0).log_prob(parameters["2.bias"]).sum()
    )


def everywhere(parameters):
    return -sum((value**4).sum() for value in parameters.values())


SIGMA = 0.7**0.5
# name -> (prior, its log density of a row)
PRIORS = {
    "a mean from a module": (hmc_fast.Normal(0.7, mean=MEAN), lambda r: about(ROW, SIGMA).log_prob(r).sum()),
    "a mean from a state dict": (
        hmc_fast.Laplace(0.7, mean=MEAN.state_dict()),
        lambda r: about(ROW, (0.7 / 2) ** 0.5, D.Laplace).log_prob(r).sum(),
    ),
    "a mean as a draw": (
        hmc_fast.StudentT(2.0, 4.0, mean=ROW.numpy()),
        lambda r: D.StudentT(numbers(4.0)).log_prob(r - ROW).sum(),
    ),
    "a number as mean": (
        hmc_fast.Logistic(1.0, mean=2.0),
        lambda r: (
            D.TransformedDistribution(
                D.Uniform(torch.zeros((), dtype=torch.float64), 1.0),
                [D.SigmoidTransform().inv, D.AffineTransform(2.0, 3**0.5 / np.pi)],
            )
            .log_prob(r)
            .sum()
        ),
    ),
    "a mixture about a mean": (
        hmc_fast.Mixture(1.0, weight=0.4, ratio=0.2, mean=MEAN),
        lambda r: (
            D.MixtureSameFamily(
                D.Categorical(numbers(0.4, 0.6)),
                D.Normal(torch.zeros(2), numbers(1.0, 0.2) / (0.4 + 0.6 * 0.04) ** 0.5),
            )
            .log_prob(r - ROW)
            .sum()
        ),
    ),
    "means of some groups": (
        hmc_fast.PerGroup({"0.*": hmc_fast.Normal(0.7, mean=MEAN)}, hmc_fast.Normal(1.0)),
        lambda r: about(ROW[:16], SIGMA).log_prob(r[:16]).sum() + D.Normal(0, 1.0).log_prob(r[16:]).sum(),
    ),
    "a mean of one parameter's shape": (
        hmc_fast.PerGroup({"2.weight": hmc_fast.Normal(0.7, mean=MEAN[2].weight)}, hmc_fast.Normal(1.0)),
        lambda r: (
            about(ROW[16:24], SIGMA).log_prob(r[16:24]).sum()
            + D.Normal(0, 1.0).log_prob(torch.cat((r[:16], r[24:]))).sum()
        ),
    ),
    "a distribution": (HALF, lambda r: HALF.log_prob(r).sum()),
    "a mixture of torch's": (
        D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Normal(torch.zeros(2), torch.tensor([0.25, 1.0]))),
        lambda r: (0.5 * (about(0, 0.25).log_prob(r).exp() + D.Normal(0, 1.0).log_prob(r).exp())).log().sum(),
    ),
    "distributions of some groups": (
        hmc_fast.PerGroup({"0.*": D.StudentT(3.0), "2.bias": D.Normal(torch.tensor([1.0, 2.0]), 0.125)}),
        lambda r: (
            D.StudentT(3.0).log_prob(r[:16]).sum()
            + D.Normal(0, 1.0).log_prob(r[16:24]).sum()
            + D.Normal(torch.tensor([1.0, 2.0]), 0.125).log_prob(r[24:]).sum()
        ),
    ),
    "a function": (everywhere, lambda r: -(r**4).sum()),
    "a function of a group": (
        hmc_fast.PerGroup({"0.weight": everywhere}, hmc_fast.Normal(0.7, mean=MEAN)),
        lambda r: about(ROW[12:], SIGMA).log_prob(r[12:]).sum() - (r[:12] ** 4).sum(),
    ),
    "a function of several": (
        hmc_fast.PerGroup({"[02].[wb]*": lambda p: horseshoe(p) + everywhere(p)}),
        lambda r: (
            D.Laplace(0.0, r[24:].exp().sum()).log_prob(r[:12]).sum()
            + D.Normal(0, 3.0).log_prob(r[24:]).sum()
            - (r**4).sum()
        ),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_density_and_gradient(name):
    """Against torch's densities in float64, gradients against central differences of those."""
    prior, known = PRIORS[name]
    target = posterior(prior, temperature=0.5)
    theta = torch.randn(3, 26, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.stack([known(row) for row in theta])
    torch.testing.assert_close(target.log_prior(theta), expected, rtol=1e-9, atol=1e-9)
    change = target.prior_difference(theta, theta.flip(0))
    torch.testing.assert_close(change, expected.flip(0) - expected, rtol=1e-9, atol=1e-9)
    momentum = torch.zeros_like(theta)
    energy = target.energy_difference((theta, momentum), (theta.flip(0), momentum + 1))
    torch.testing.assert_close(energy, 13 - change / 0.5, rtol=1e-9, atol=1e-9)

    grad, log_lik, force = torch.empty_like(theta), theta.new_empty(3, 12), torch.empty_like(theta)
    target.log_likelihood_and_grad(theta, grad, log_lik)
    target.force(theta, grad, force)
    flat = hmc_fast.Posterior(network(), (X, Y), prior=hmc_fast.Normal(1e30), temperature=0.5)
    likelihood, without = torch.empty_like(theta), torch.empty_like(theta)
    flat.log_likelihood_and_grad(theta, likelihood, log_lik)
    flat.force(theta, likelihood, without)
    h = 1e-6 * torch.eye(26, dtype=torch.float64)
    numeric = torch.stack([(known(theta[0] + e) - known(theta[0] - e)) / 2e-6 for e in h])
    torch.testing.assert_close((force - without)[0] * 0.5, numeric, rtol=1e-6, atol=1e-6)

    rows = torch.arange(6).expand(3, 6)
    batched, part = torch.empty_like(theta), torch.empty_like(theta)
    target.log_likelihood_and_grad(theta, batched, log_lik[:, :6], rows)
    flat.log_likelihood_and_grad(theta, part, log_lik[:, :6], rows)
    torch.testing.assert_close(batched - part, grad - likelihood, rtol=1e-9, atol=1e-9)  # the prior once, not N/B


def test_means_cost_no_launch():
    """One family: one segment, with the scale in one number if it is one."""
    (segment,) = prior_table.segments(hmc_fast.Normal(4.0, mean=MEAN), posterior(None).flat)
    assert (segment.start, segment.stop, segment.family, segment.scale) == (0, 26, ops.NORMAL, 2.0)
    assert torch.equal(segment.mean, ROW)
    (segment,) = posterior(PRIORS["means of some groups"][0]).prior
    assert torch.equal(segment.mean, torch.cat((ROW[:16], torch.zeros(10).double())))
    assert [s.mean for s in posterior(hmc_fast.PerGroup({"0.*": hmc_fast.Laplace()})).prior] == [None, None]


def test_a_mean_is_copied():
    module = network(3)
    prior = hmc_fast.Normal(1.0, mean=module)
    before = posterior(prior).prior[0].mean.clone()
    with torch.no_grad():
        module[0].weight.add_(1.0)
    assert torch.equal(posterior(prior).prior[0].mean, before)


def test_chains_begin_about_the_mean():
    begin = posterior(hmc_fast.Normal(1e-4, mean=MEAN)).initial("default", 400, 0)
    torch.testing.assert_close(begin.mean(0), ROW, rtol=0, atol=3e-3)
    assert begin.std().item() > 0.01
    torch.testing.assert_close((begin - ROW).std(0), torch.full((26,), 0.01).double(), rtol=0.2, atol=0)


def test_distributions_are_drawn_from_by_seed_and_chain():
    target = posterior(PRIORS["distributions of some groups"][0])
    before = torch.get_rng_state()
    rows = target.initial("default", 300, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(rows[:, 24:].mean(0), torch.tensor([1.0, 2.0]).double(), rtol=0, atol=0.03)
    assert torch.equal(rows[:2], target.initial("prior", 2, 5)), "chain 0 does not depend on the others"
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[:2], target.initial("prior", 2, 6))


def test_a_function_cannot_be_drawn_from():
    target = posterior(everywhere)
    assert torch.equal(target.initial("default", 2, 0), target.initial("model", 2, 0))
    with pytest.raises(hmc_fast.UserError, match="no initial state can be drawn: use init='model'"):
        target.initial("prior", 2, 0)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a mean from a module", "traced"),
        ("distributions of some groups", "traced"),
        ("a function of several", "traced"),
        pytest.param("a function of several", "loop", marks=pytest.mark.slow),
        pytest.param("a mean from a module", "loop", marks=pytest.mark.slow),
        pytest.param("distributions of some groups", "loop", marks=pytest.mark.slow),
        pytest.param("a function of several", "compiled", marks=pytest.mark.slow),
    ],
)
def test_every_path_gives_the_same_draws(name, path):
    target, sampler = posterior(PRIORS[name][0]), hmc_fast.HMC(0.05, num_leapfrog=4)
    chains = []
    for way in ("eager", path):
        state = sampler.init(target.prepared(path=way), target.initial("model", 2, 0), seed=1)
        for _ in range(3):
            sampler.step(state)
        chains.append(state.theta)
    torch.testing.assert_close(*chains, rtol=1e-5, atol=1e-6)  # momenta are float32


def test_a_function_that_vmap_refuses_runs_chain_by_chain():
    def branching(parameters):
        total = sum((value**2).sum() for value in parameters.values())
        return -total if float(total.detach()) > 0 else total

    same, rows = posterior(lambda p: -sum((v**2).sum() for v in p.values())), torch.ones(2, 26).double()
    target = posterior(branching)
    assert torch.equal(target.log_prior(rows), same.log_prior(rows))
    assert torch.equal(target.potential_and_grad(rows)[1], same.potential_and_grad(rows)[1])
    run = sample(target, hmc_fast.HMC(0.05, num_leapfrog=3), chains=2, burn_in=2, draws=3, draw_dtype=torch.float64)
    expected = sample(
        same, hmc_fast.HMC(0.05, num_leapfrog=3), chains=2, burn_in=2, draws=3, draw_dtype=torch.float64
    )
    assert np.array_equal(run.draws, expected.draws)


def test_sampled_moments_about_a_mean():
    """With a likelihood that says nothing, the posterior is the prior: a mean and a distribution side by side."""

    def nothing(outputs, y):
        return 0 * outputs[:, 0]

    model = nn.Linear(2, 1).double()
    prior = hmc_fast.PerGroup(
        {"weight": hmc_fast.Normal(0.25, mean=torch.tensor([[3.0, -2.0]]))}, D.Normal(1.0, 0.5)
    )
    target = hmc_fast.Posterior(model, (torch.zeros(2, 2), torch.zeros(2)), nothing, prior)
    sampler = hmc_fast.HMC(0.15, num_leapfrog=5)
    run = sample(target, sampler, chains=256, burn_in=5, draws=30, draw_dtype=torch.float64)
    draws = torch.from_numpy(np.array(run.draws)).flatten(0, 1)
    expected = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(draws.std(0), torch.full((3,), 0.5, dtype=torch.float64), rtol=0.04, atol=0)


def test_another_prior_does_not_resume(tmp_path):
    sampler = hmc_fast.HMC(0.05, num_leapfrog=2)
    options = {"chains": 1, "burn_in": 1, "draws": 2, "progress": False, "init": "model"}
    first = posterior(hmc_fast.Normal(1.0, mean=MEAN))
    hmc_fast.run(first, sampler, out=tmp_path / "a", config={"by": "me"}, **options)
    assert '"prior": "Normal(variance=1.0, mean=tensors of 4 names)"' in (tmp_path / "a/config.json").read_text()
    hmc_fast.run(first, sampler, out=tmp_path / "a", resume=True, **options)
    for other in (hmc_fast.Normal(1.0, mean=network(8)), hmc_fast.Normal(1.0), everywhere):
        with pytest.raises(hmc_fast.UserError, match="was made with prior"):
            hmc_fast.run(posterior(other), sampler, out=tmp_path / "a", resume=True, **options)
    hmc_fast.run(posterior(everywhere), sampler, out=tmp_path / "b", **options)
    hmc_fast.run(posterior(lambda p: everywhere(p)), sampler, out=tmp_path / "c", **options)
    hmc_fast.run(posterior(everywhere), sampler, out=tmp_path / "b", resume=True, **options)
    stronger = posterior(lambda p: 2 * everywhere(p))
    stronger.prior_in_words = posterior(everywhere).prior_in_words
    with pytest.raises(hmc_fast.UserError, match="prior density"):
        hmc_fast.run(stronger, sampler, out=tmp_path / "b", resume=True, **options)


def group(prior):
    return hmc_fast.PerGroup({"0.weight": prior})


MISTAKES = {
    "a number": (0.1, "prior is a float"),
    "a dict": ({"0.*": hmc_fast.Normal()}, r"prior is a dict.*PerGroup\(\{"),
    "a class": (D.Normal, r"prior is the class Normal: give an object"),
    "a number for a group": (group(0.1), "the prior of '0.weight' is a float"),
    "a number by default": (hmc_fast.PerGroup({}, default=2.0), "the default prior is a float"),
    "no mapping": (hmc_fast.PerGroup([hmc_fast.Normal()]), "PerGroup takes a dict from patterns"),
    "unknown names": (lambda p: p["weights"].sum(), r"prior fails on the parameters '0.weight' \(4, 3\).*KeyError"),
    "a vector": (lambda p: -(p["0.bias"] ** 2), r"returned shape \(4,\): it must return one log density"),
    "no tensor": (lambda p: 1.0, "returned a float"),
    "no gradient": (lambda p: -(p["0.bias"].detach() ** 2).sum(), "has no gradient"),
    "a half line": (lambda p: p["0.bias"].log().sum(), "has log density nan"),
    "random": (lambda p: -(p["0.bias"] * torch.rand(4)).sum(), "must not be random"),
    "positive numbers": (D.LogNormal(0.0, 1.0), r"LogNormal, has support GreaterThan.*any real"),
    "an interval": (D.Uniform(-1.0, 1.0), "Uniform, has support Interval"),
    "a mixture of positive numbers": (
        D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Gamma(torch.ones(2), 1.0)),
        "has support GreaterThan",
    ),
    "whole numbers": (D.Poisson(3.0), "Poisson, has support IntegerGreaterThan"),
    "vectors": (D.MultivariateNormal(torch.zeros(3), torch.eye(3)), r"has events of shape \(3,\)"),
    "a batch of another shape": (D.Normal(torch.zeros(3), 1.0), r"batch shape \(3,\), but parameter '0.weight'"),
    "fan-in of a function": (hmc_fast.PerGroup({"0.*": everywhere}, fan_in=True), "fan_in=True divides variances"),
    "a pattern without a match": (hmc_fast.PerGroup({"3.*": everywhere}), r"'3.\*' matches no parameter"),
    "a mean of another shape": (hmc_fast.Normal(mean=torch.zeros(5)), r"mean has shape \(5,\).*all 26 parameters"),
    "a mean of another model": (
        hmc_fast.Normal(mean=nn.Linear(3, 4)),
        "nothing for parameter '0.weight', only weight",
    ),
    "a mean of a wider model": (
        hmc_fast.Normal(mean=nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))),
        r"mean has shape \(5, 3\) for parameter '0.weight', which has \(4, 3\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence(name):
    prior, message = MISTAKES[name]
    with pytest.raises(hmc_fast.UserError, match=message) as caught:
        posterior(prior)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ("0", "prior mean is a str"),
        (nn.Linear, "prior mean is the class Linear"),
        ({"weight": 1.0}, "dict of other things than tensors"),
        (float("nan"), "NaN or infinity"),
        ({"weight": torch.tensor([torch.inf])}, "mean of 'weight' contains NaN or infinity"),
    ],
)
def test_means_of_the_wrong_kind(mean, message):
    with pytest.raises(hmc_fast.UserError, match=message):
        hmc_fast.Normal(1.0, mean=mean)
