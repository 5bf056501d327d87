"""Posterior and Density: values and gradients against plain autograd, scaling, and what is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.dynamics.minibatches import Minibatches, permutation
from hmc_fast.models import lenet5
from targets import linear_regression

CPU = torch.device("cpu")


def data(num=20, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 4, generator=generator, dtype=dtype)
    return x, torch.randint(0, 3, (num,), generator=generator)


def network(dtype=torch.float64):
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def expected(posterior, row, x, y, scale=1.0):
    """U and its gradient, by hand."""
    row = row.clone().requires_grad_()
    log_lik = -nn.functional.cross_entropy(posterior.flat(row, x), y, reduction="sum") * scale
    std = torch.tensor(0.2, dtype=torch.float64).sqrt()
    log_prior = torch.distributions.Normal(torch.zeros_like(std), std).log_prob(row).sum()
    potential = -(log_lik + log_prior) / posterior.temperature
    return potential.item(), torch.autograd.grad(potential, row)[0]


@pytest.mark.parametrize("chain_batching", ["vmap", "loop"])
@pytest.mark.parametrize("micro_batch_size", [1, 7, 20, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_potential_and_gradient(chain_batching, micro_batch_size, temperature):
    x, y = data()
    posterior = hmc_fast.Posterior(
        network(),
        (x, y),
        prior=hmc_fast.Normal(0.2),
        temperature=temperature,
        micro_batch_size=micro_batch_size,
        chain_batching=chain_batching,
    )
    theta = posterior.initial("prior", 3, 0)
    potential, grad = posterior.potential_and_grad(theta)
    for chain, row in enumerate(theta):
        value, gradient = expected(posterior, row, x, y)
        assert potential[chain].item() == pytest.approx(value, rel=1e-10)
        torch.testing.assert_close(grad[chain], gradient)


@pytest.mark.parametrize("chain_batching", ["vmap", "loop"])
def test_a_minibatch_is_scaled_by_n_over_b_and_log_likelihoods_are_not(chain_batching):
    x, y = data()
    posterior = hmc_fast.Posterior(
        network(), (x, y), prior=hmc_fast.Normal(0.2), chain_batching=chain_batching, micro_batch_size=3
    )
    theta = posterior.initial("prior", 2, 0)
    indices = torch.tensor([[0, 3, 5, 7, 9], [1, 2, 4, 6, 8]])
    potential, grad = posterior.potential_and_grad(theta, indices)
    for chain, row in enumerate(theta):
        value, gradient = expected(posterior, row, x[indices[chain]], y[indices[chain]], scale=4.0)
        assert potential[chain].item() == pytest.approx(value, rel=1e-10)
        torch.testing.assert_close(grad[chain], gradient)
    log_lik = torch.empty(2, 5, dtype=torch.float64)
    posterior.log_likelihood_and_grad(theta, torch.empty_like(theta), log_lik, indices)
    row0 = -nn.functional.cross_entropy(posterior.flat(theta[0], x[indices[0]]), y[indices[0]], reduction="none")
    torch.testing.assert_close(log_lik[0], row0)


@pytest.mark.parametrize("batch_size", [5, 6])
def test_minibatch_gradients_are_unbiased(batch_size):
    """The mean over whole epochs of batches is the full gradient, to rounding."""
    posterior = hmc_fast.Posterior(network(), data(), prior=hmc_fast.Normal(0.2))
    theta = posterior.initial("prior", 2, 0)
    batches = Minibatches(20, batch_size, 2, 3, CPU)
    steps = {5: 4, 6: 10}[batch_size]  # 1 epoch, 3 epochs
    grads = [posterior.potential_and_grad(theta, batches.indices(step))[1] for step in range(steps)]
    torch.testing.assert_close(torch.stack(grads).mean(0), posterior.potential_and_grad(theta)[1])


def test_low_precision_is_for_the_gradient_alone():
    x, y = data(dtype=torch.float32)
    exact = hmc_fast.Posterior(network(torch.float32), (x, y))
    low = hmc_fast.Posterior(exact._trainable(), (x, y), precision="bf16")
    assert exact.exact_gradient_pass
    assert not low.exact_gradient_pass
    theta = exact.initial("model", 2, 0)
    values = []
    for posterior in (exact, low):
        grad, log_lik, again = torch.empty_like(theta), torch.empty(2, 20), torch.empty(2, 20)
        posterior.log_likelihood_and_grad(theta, grad, log_lik)
        posterior.log_likelihood(theta, again)
        values.append((grad, log_lik, again))
    assert not torch.equal(values[0][0], values[1][0])
    torch.testing.assert_close(values[0][0], values[1][0], atol=0.3, rtol=0.1)
    assert torch.equal(values[0][2], values[1][2])
    torch.testing.assert_close(values[0][1], values[0][2])


def test_hmc_in_low_precision_still_targets_the_exact_law():
    """The recorded energy error is that of exact energies: it must match a float64 evaluation."""
    x, y = data(dtype=torch.float32)
    model = network(torch.float32)
    low = hmc_fast.Posterior(model, (x, y), prior=hmc_fast.Normal(0.2), precision="bf16")
    sampler = hmc_fast.HMC(0.1, num_leapfrog=5)
    state = sampler.init(low, low.initial("prior", 2, 0), seed=1)
    before = state.theta.clone()
    _, info = sampler.step(state)
    exact = hmc_fast.Posterior(model.double(), (x.double(), y), prior=hmc_fast.Normal(0.2))
    new, old = (exact.potential_and_grad(t.double())[0] for t in (state.work_theta, before))
    kinetic = 0.5 * (state.work_new_momentum.double() ** 2 - state.work_momentum.double() ** 2).sum(1)
    torch.testing.assert_close(info.energy_error, new - old + kinetic, atol=1e-4, rtol=1e-4)


def test_model_defaults_batch_convolutions_by_loop():
    images = torch.randn(4, 1, 28, 28), torch.randint(0, 10, (4,))
    assert hmc_fast.Posterior(lenet5(), images).chain_batching == "loop"
    assert hmc_fast.Posterior(network(torch.float32), data(dtype=torch.float32)).chain_batching == "vmap"


def test_predictions_do_not_depend_on_the_batching():
    x, y = data()
    theta = None
    results = []
    for batching in ("vmap", "loop"):
        posterior = hmc_fast.Posterior(network(), (x, y), chain_batching=batching)
        theta = posterior.initial("prior", 3, 0) if theta is None else theta
        results.append(posterior.predict(theta, x, batch_size=6))
    assert results[0].shape == (3, 20, 3)
    torch.testing.assert_close(*results)
    torch.testing.assert_close(results[0].sum(-1), torch.ones(3, 20, dtype=torch.float64))


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


def test_density_is_vectorised_over_chains():
    density = hmc_fast.Density(lambda t: -(t**4).sum() + t[0], 3, temperature=2.0, dtype=torch.float64)
    theta = torch.randn(5, 3, dtype=torch.float64)
    potential, grad = density.potential_and_grad(theta)
    torch.testing.assert_close(potential, ((theta**4).sum(1) - theta[:, 0]) / 2)
    torch.testing.assert_close(grad, (4 * theta**3 - torch.tensor([1.0, 0, 0])) / 2)


def test_categorical_log_probabilities_are_minus_the_cross_entropy():
    outputs = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 2, 1, 1, 0])
    ours = hmc_fast.Categorical().log_prob(outputs, y)
    theirs = -nn.functional.cross_entropy(outputs, y, reduction="none")
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad((v * weights).sum(), outputs)[0] for v in (ours, theirs)))
    with pytest.raises(hmc_fast.UserError, match=r"outputs of shape \(5, 3\) for labels of shape \(4,\)"):
        hmc_fast.Categorical().log_prob(outputs, y[:4])


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
        of().prepared(compiled=True),
    ]
    prints = [json.dumps(variant.fingerprint()) for variant in variants]
    assert len(set(prints)) == len(variants)
    assert json.dumps(of((x.clone(), y.clone()), micro_batch_size=7).fingerprint()) == prints[0]


def test_a_bare_density_predicts_nothing_and_holds_no_data():
    density = hmc_fast.Density(lambda t: -t.square().sum(), 3)
    theta = torch.zeros(1, 3)
    calls = (density.inputs, lambda x: density.outputs(theta, x), lambda x: density.logits(theta, x))
    for call in (*calls, lambda x: density.predict(theta, x), lambda x: density.task):
        with pytest.raises(hmc_fast.UserError, match="a bare Density predicts nothing"):
            call(torch.zeros(1, 3))
    with pytest.raises(hmc_fast.UserError, match="chain_batching 'loop': a Density has only one way"):
        density.prepared(compiled=False, chain_batching="loop")
    assert density.nbytes == 0
    assert density.parameter_shapes() == {"theta": (3,)}
    posterior = hmc_fast.Posterior(network(torch.float32), (X, Y))
    assert posterior.nbytes == 20 * 4 * 4 + 20 * 8
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (3, 6), "2.bias": (3,)}
    assert posterior.parameter_shapes() == shapes
    with pytest.raises(hmc_fast.UserError, match=r"test inputs have shape \(3,\) per example, the data \(4,\)"):
        posterior.inputs(torch.zeros(2, 3))
    assert posterior.inputs(torch.zeros(2, 4, dtype=torch.float64)).dtype == torch.float32


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
        ({"data": (X, Y[:3])}, "X holds 20 examples and y 3"),
        (
            {"data": (X.clone().index_fill(0, torch.tensor([6]), torch.nan), Y)},
            "X holds NaN or an infinity in row 6",
        ),
        ({"data": (X, Y + 5)}, r"labels must be integers in 0\.\.2"),
        ({"data": (X, Y.float())}, "does not take an example|labels must be integers"),
        ({"data": (X[:, :2], Y)}, r"the model does not take an example of shape \(1, 2\)"),
        ({"temperature": 0.0}, "temperature 0.0 must be a positive number"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"micro_batch_size": 0}, "micro batch size 0"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown"),
        ({"precision": "tf32"}, "precision 'tf32' needs a CUDA device"),
        ({"chain_batching": "pmap"}, "chain_batching 'pmap' is unknown"),
        ({"likelihood": "poisson"}, "likelihood 'poisson' is unknown: use one of categorical"),
        ({"likelihood": lambda out, y: out.sum()}, r"gave shape \(\) for one example"),
    ],
)
def test_mistakes_name_value_and_cure(change, message):
    options = {"data": (X, Y)} | change
    with pytest.raises(hmc_fast.UserError, match=message):
        hmc_fast.Posterior(network(torch.float32), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hmc_fast.Density(lambda t: t.sum(), 0), "dim 0 must be at least 1"),
        (lambda: hmc_fast.Density(lambda t: t, 2), r"returned \(2,\) for one point"),
        (lambda: hmc_fast.Density(lambda t: t.detach().sum(), 2), "the log density has no gradient"),
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


# --- minibatches ---


@pytest.mark.parametrize(("num_data", "batch_size"), [(12, 4), (10, 3), (7, 7), (5, 1)])
def test_every_datum_appears_once_per_epoch(num_data, batch_size):
    batches = Minibatches(num_data, batch_size, 3, 0, CPU)
    steps = num_data * 3  # a whole number of epochs, however B divides N
    drawn = torch.cat([batches.indices(step).clone() for step in range(steps)], dim=1)
    for epoch in drawn.split(num_data, dim=1):
        assert torch.equal(epoch.sort(1).values, torch.arange(num_data).expand(3, -1))
    assert not torch.equal(drawn[0], drawn[1])


def test_batches_are_a_function_of_the_step_alone():
    one, other = (Minibatches(10, 3, 2, 5, CPU) for _ in range(2))
    forward = [one.indices(step).clone() for step in range(12)]
    for step in (11, 2, 7, 8, 0):
        assert torch.equal(other.indices(step), forward[step])
    different = Minibatches(10, 3, 2, 6, CPU)
    assert not torch.equal(torch.cat(forward), torch.cat([different.indices(s).clone() for s in range(12)]))


def test_positions_are_uniform():
    drawn = torch.cat([permutation(0, epoch, 8, 6, CPU) for epoch in range(400)])  # (3200, 6)
    counts = np.stack([np.bincount(drawn[:, position], minlength=6) for position in range(6)])
    chi_square = ((counts - 3200 / 6) ** 2 / (3200 / 6)).sum()
    assert chi_square < 55  # 25 degrees of freedom: 0.9995 quantile


@pytest.mark.parametrize("batch_size", [0, 11])
def test_batch_size_must_fit(batch_size):
    with pytest.raises(hmc_fast.UserError, match=f"batch size {batch_size} must lie between 1 and the 10"):
        Minibatches(10, batch_size, 1, 0, CPU)


def test_a_bare_density_begins_uniformly_unless_told_otherwise():
    density = hmc_fast.Density(lambda t: -(t**2).sum(), 200)
    theta = density.initial("default", 4, 0)
    assert torch.equal(theta, density.initial("uniform", 4, 0))
    assert -2 < theta.min() < -1.9
    assert 1.9 < theta.max() < 2
    assert not torch.equal(theta[0], theta[1])
    posterior, _ = linear_regression()
    assert torch.equal(posterior.initial("default", 2, 0), posterior.initial("prior", 2, 0))
