"""Posterior: where chains begin, what it leaves alone, what is refused."""

import json

import pytest
import torch
from torch import nn

import hmc_fast
from cases import data, network

CPU = torch.device("cpu")


def expected(posterior, row, x, y, scale=1.0):
    """U and its gradient, by hand."""
    row = row.clone().requires_grad_()
    log_lik = -nn.functional.cross_entropy(posterior.flat(row, x), y, reduction="sum") * scale
    std = torch.tensor(0.2, dtype=torch.float64).sqrt()
    log_prior = torch.distributions.Normal(torch.zeros_like(std), std).log_prob(row).sum()
    potential = -(log_lik + log_prior) / posterior.temperature
    return potential.item(), torch.autograd.grad(potential, row)[0]


def test_where_chains_begin():
    posterior = hmc_fast.Posterior(network(), data(), prior=hmc_fast.Laplace(2.0))
    prior = posterior.initial("prior", 400, 1)
    assert prior.var().item() == pytest.approx(2.0, rel=0.05)
    assert torch.equal(prior[:2], posterior.initial("prior", 2, 1)), "chain 0 does not depend on the others"
    model = posterior.initial("model", 2, 0)
    assert torch.equal(model[0], posterior.flat.initial)
    assert model[0].data_ptr() != posterior.flat.initial.data_ptr()
    with pytest.raises(hmc_fast.UserError, match="NaN or infinite"):
        posterior.initial(torch.full((posterior.num_params,), torch.nan), 1, 0)


def test_nothing_global_is_touched():
    before = (
        torch.get_rng_state(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )
    posterior = hmc_fast.Posterior(network(torch.float32), data(dtype=torch.float32), precision="bf16")
    after_model = torch.get_rng_state()
    theta = posterior.initial("prior", 2, 0)
    posterior.potential_and_grad(theta)
    posterior.predict(theta, posterior.x)
    assert torch.equal(after_model, torch.get_rng_state())
    assert before[1:] == (torch.is_autocast_enabled("cpu"), torch.get_num_threads(), torch.is_grad_enabled())


X, Y = data(dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (X[:0], Y[:0])}, "the data are empty"),
        ({"data": (X, Y[:3])}, "X has 20 examples but y has 3"),
        (
            {"data": (X.clone().index_fill(0, torch.tensor([6]), torch.nan), Y)},
            "X contains NaN or infinity in row 6",
        ),
        ({"data": (X, Y + 5)}, r"labels must be integers in 0\.\.2"),
        ({"data": (X, Y.float())}, "fails on an example|labels must be integers"),
        (
            {"data": (X[:, :2], Y)},
            r"the model with the likelihood Categorical fails on an example of shape \(2,\)",
        ),
        ({"temperature": 0.0}, "temperature 0.0 must be a positive number"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"micro_batch_size": 0}, "micro batch size 0"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown"),
        ({"precision": "tf32"}, "precision 'tf32' needs a CUDA device"),
        ({"chain_batching": "pmap"}, "chain_batching 'pmap' is unknown"),
        ({"likelihood": "poisson"}, "likelihood 'poisson' is unknown: use one of categorical"),
        ({"likelihood": lambda out, y: out.sum()}, r"returned shape \(\) for one example"),
    ],
)
def test_mistakes_name_value_and_cure(change, message):
    options = {"data": (X, Y)} | change
    with pytest.raises(hmc_fast.UserError, match=message):
        hmc_fast.Posterior(network(torch.float32), **options)


def test_a_fingerprint_changes_with_everything_that_changes_draws():
    """And with nothing else: what is equal gives equal prints, in another process too (plain JSON values)."""
    x, y = data()
    model = network()

    def of(data=(x, y), prior=None, **options):
        return hmc_fast.Posterior(model, data, prior=prior or hmc_fast.Normal(0.2), **options)

    wide = hmc_fast.PerGroup({"*.bias": hmc_fast.Normal(1.0)}, default=hmc_fast.Normal(0.2))
    wider = hmc_fast.PerGroup({"*.bias": hmc_fast.Normal(2.0)}, default=hmc_fast.Normal(0.2))
    variants = [
        of(),
        of((x.flip(0), y)),
        of((x, y.flip(0))),
        of(temperature=0.5),
        of(prior=hmc_fast.Normal(0.3)),
        of(prior=hmc_fast.Laplace(0.2)),
        of(prior=hmc_fast.StudentT(0.2, 4.0)),
        of(prior=wide),
        of(prior=wider),
        of(chain_batching="loop"),
        of().prepared(path="compiled"),
    ]
    prints = [json.dumps(variant.fingerprint()) for variant in variants]
    assert len(set(prints)) == len(variants)
    assert json.dumps(of((x.clone(), y.clone()), micro_batch_size=7).fingerprint()) == prints[0]


def test_a_bare_density_predicts_nothing_and_holds_no_data():
    density = hmc_fast.Density(lambda t: -t.square().sum(), 3)
    theta = torch.zeros(1, 3)
    calls = (density.inputs, lambda x: density.outputs(theta, x), lambda x: density.logits(theta, x))
    for call in (*calls, lambda x: density.predict(theta, x), lambda x: density.task):
        with pytest.raises(hmc_fast.UserError, match="a bare Density has no predictions"):
            call(torch.zeros(1, 3))
    with pytest.raises(hmc_fast.UserError, match="chain_batching 'loop' must be None for a Density"):
        density.prepared(path="eager", chain_batching="loop")
    assert density.nbytes == 0
    assert density.parameter_shapes() == {"theta": (3,)}
    posterior = hmc_fast.Posterior(network(torch.float32), (X, Y))
    assert posterior.nbytes == 20 * 4 * 4 + 20 * 8
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (3, 6), "2.bias": (3,)}
    assert posterior.parameter_shapes() == shapes
    with pytest.raises(
        hmc_fast.UserError, match=r"test inputs have shape \(3,\) per example, but the training inputs have \(4,\)"
    ):
        posterior.inputs(torch.zeros(2, 3))
    assert posterior.inputs(torch.zeros(2, 4, dtype=torch.float64)).dtype == torch.float32


def test_a_minibatch_estimates_the_potential():
    """Likelihood times N/B, the prior once: over equal batches the mean is the full potential."""
    x, y = data()
    posterior = hmc_fast.Posterior(network(), (x, y), prior=hmc_fast.Normal(0.2), temperature=0.5)
    theta = posterior.initial("prior", 2, 0)
    whole, gradient = posterior.potential_and_grad(theta)
    rows = torch.arange(len(x)).view(4, -1)
    parts = [posterior.potential_and_grad(theta, row.repeat(2, 1)) for row in rows]
    torch.testing.assert_close(torch.stack([u for u, _ in parts]).mean(0), whole)
    torch.testing.assert_close(torch.stack([g for _, g in parts]).mean(0), gradient)
