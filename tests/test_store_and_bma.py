"""The ring of draws, streamed averages, scores, schedules and convergence diagnostics."""

import math

import arviz
import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

import hmc_fast
from hmc_fast.results.diagnostics import ess_bulk, rhat
from hmc_fast.results.draw_store import DrawStore, parse_capacity
from hmc_fast.results.model_average import StreamedAverage
from hmc_fast.results.predictions import Classification, expected_calibration_error
from hmc_fast.targets import likelihoods

# --- the ring ---


@pytest.mark.parametrize("capacity", [1, 3, 4, 10, 99, "48B", None])
@pytest.mark.parametrize("on_disk", [False, True])
def test_any_capacity_stores_the_same_draws(capacity, on_disk, tmp_path):
    draws = torch.randn(10, 2, 4)
    path = tmp_path / "draws.npy" if on_disk else None
    store = DrawStore(10, 2, 4, capacity=capacity, path=path)
    for draw in draws:
        store.push(draw)
        assert store.ring.shape[0] <= 10
    assert np.array_equal(store.draws(), draws.half().numpy())
    if on_disk:
        assert np.array_equal(np.load(path), draws.half().numpy())


def test_a_file_is_continued(tmp_path):
    draws = torch.randn(6, 1, 3)
    first = DrawStore(6, 1, 3, capacity=4, path=tmp_path / "d.npy")
    for draw in draws[:3]:
        first.push(draw)
    first.flush()
    second = DrawStore(6, 1, 3, capacity=2, path=tmp_path / "d.npy", count=3)
    for draw in draws[3:]:
        second.push(draw)
    assert np.array_equal(second.draws(), draws.half().numpy())


def test_rounding_is_counted_and_clamped():
    store = DrawStore(2, 1, 5, capacity=1)
    store.push(torch.tensor([[1e5, -7e4, 1e-6, 0.0, 1.0]]))
    store.push(torch.tensor([[1.0, 2.0, -1e-5, 65504.0, 6.2e-5]]))
    assert store.counts.tolist() == [2, 2]
    assert store.draws()[0, 0, :2].tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize(
    ("capacity", "draws"), [(None, 7), (3, 3), ("3", 3), ("1KB", 7), ("250B", 2), (" 0.5 KiB ", 5), ("1GiB", 7)]
)
def test_capacity_in_draws_or_bytes(capacity, draws):
    assert parse_capacity(capacity, 100, 7) == draws


@pytest.mark.parametrize("capacity", ["", "x", "-1", "0", 0, "1.5", "10B", "5 parsecs"])
def test_bad_capacity(capacity):
    with pytest.raises(hmc_fast.UserError, match="capacity"):
        parse_capacity(capacity, 100, 7)


# --- averages ---


def probabilities(draws=7, chains=3, points=11, classes=4):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(draws, chains, points, classes, generator=generator)
    return torch.softmax(logits, -1), torch.randint(0, classes, (points,), generator=generator)


def test_streamed_average_equals_stacking():
    probs, labels = probabilities()
    average = StreamedAverage("classification", (3, 11, 4), labels=labels, num_draws=7)
    for draw in probs:
        average.update(draw)
    result = average.result()
    stacked = probs.double().numpy()
    assert np.allclose(stacked.sum(-1), 1)
    np.testing.assert_allclose(result.probs, stacked.mean((0, 1)))
    np.testing.assert_allclose(result.chain_probs, stacked.mean(0))
    entropy = -(stacked * np.log(stacked)).sum(-1)
    np.testing.assert_allclose(result.aleatoric, entropy.mean((0, 1)))
    mean = stacked.mean((0, 1))
    np.testing.assert_allclose(result.epistemic, -(mean * np.log(mean)).sum(-1) - entropy.mean((0, 1)), atol=1e-12)
    assert (result.epistemic > 0).all()
    y = labels.numpy()
    assert average.curve[-1, 0].item() == pytest.approx(result.accuracy(y))
    assert average.curve[-1, 1].item() == pytest.approx(result.nll(y))
    for draw in range(7):
        for chain in range(3):
            single = stacked[draw, chain]
            assert average.curve[draw, 2 + chain].item() == pytest.approx((single.argmax(1) == y).mean())
            assert average.curve[draw, 5 + chain].item() == pytest.approx(
                log_loss(y, single / single.sum(1, keepdims=True), labels=range(4))
            )


def test_a_repeated_draw_counts_again():
    probs, _ = probabilities(draws=2)
    average = StreamedAverage("classification", (3, 11, 4))
    for draw in (probs[0], probs[0], probs[0], probs[1]):
        average.update(draw)
    np.testing.assert_allclose(
        average.result().probs, (0.75 * probs[0] + 0.25 * probs[1]).mean(0).numpy(), rtol=1e-5
    )


def test_regression_moments_are_those_of_the_mixture():
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(5, 2, 6, generator=generator), torch.rand(5, 2, 6, generator=generator) + 0.1
    labels = torch.randn(6, generator=generator)
    average = StreamedAverage("regression", (2, 6, 2), labels=labels, num_draws=5)
    for draw in range(5):
        average.update(torch.stack((mean[draw], variance[draw]), -1))
    result = average.result()
    m, v = mean.double().numpy().reshape(10, 6), variance.double().numpy().reshape(10, 6)
    np.testing.assert_allclose(result.mean, m.mean(0))
    np.testing.assert_allclose(result.variance, v.mean(0) + m.var(0))
    np.testing.assert_allclose(result.epistemic, m.var(0), atol=1e-12)
    y = labels.numpy()
    density = -0.5 * ((y - result.mean) ** 2 / result.variance + np.log(2 * np.pi * result.variance))
    assert result.log_likelihood(y) == pytest.approx(density.mean())
    assert average.curve[-1].tolist()[:2] == pytest.approx([result.rmse(y), result.log_likelihood(y)])
    scaled = result.rescaled(3.0, 2.0)
    assert scaled.rmse(3 + 2 * y) == pytest.approx(2 * result.rmse(y))
    assert scaled.log_likelihood(3 + 2 * y) == pytest.approx(result.log_likelihood(y) - math.log(2))


def test_scores():
    probs = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    result = Classification(probs, probs[None], np.zeros(3))
    y = np.array([0, 0, 0])
    assert result.accuracy(y) == pytest.approx(2 / 3)
    assert result.nll(y) == pytest.approx(-np.log([0.8, 0.4, 0.9]).mean())
    assert result.brier(y) == pytest.approx(2 * (0.04 + 0.36 + 0.01) / 3)
    # one bin: mean confidence .7667 against accuracy .6667; three bins: .4 of .6, 1 of .8, 1 of .9
    assert result.ece(y, num_bins=1) == pytest.approx(0.1)
    assert result.ece(y, num_bins=3) == pytest.approx((0.6 + 0.2 + 0.1) / 3)


def test_calibrated_probabilities_have_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    labels = (rng.uniform(size=40_000) > p).astype(int)
    assert expected_calibration_error(np.stack((p, 1 - p), 1), labels) < 0.01


# --- likelihoods ---


def test_likelihoods_against_torch_distributions():
    outputs, generator = torch.randn(6, 2, dtype=torch.float64), torch.Generator().manual_seed(0)
    y = torch.randn(6, generator=generator, dtype=torch.float64)
    std = torch.nn.functional.softplus(outputs[:, 1]) + 1e-3
    normal = torch.distributions.Normal
    hetero = likelihoods.resolve("heteroscedastic")
    torch.testing.assert_close(hetero.log_prob(outputs, y), normal(outputs[:, 0], std).log_prob(y))
    torch.testing.assert_close(hetero.predict(outputs), torch.stack((outputs[:, 0], std**2), -1))
    known = hmc_fast.Gaussian(0.3)
    torch.testing.assert_close(known.log_prob(outputs[:, :1], y), normal(outputs[:, 0], 0.3).log_prob(y))
    assert known.predict(outputs[:, :1])[:, 1].unique().item() == pytest.approx(0.09)
    binary = (y > 0).long()
    bernoulli = likelihoods.resolve("bernoulli")
    expected = torch.distributions.Bernoulli(logits=outputs[:, 0]).log_prob(binary.double())
    torch.testing.assert_close(bernoulli.log_prob(outputs[:, :1], binary), expected)
    torch.testing.assert_close(bernoulli.predict(outputs[:, 0]).sum(-1), torch.ones(6, dtype=torch.float64))
    categorical = likelihoods.resolve("categorical")
    expected = torch.distributions.Categorical(logits=outputs).log_prob(binary)
    torch.testing.assert_close(categorical.log_prob(outputs, binary), expected)
    custom = likelihoods.resolve(lambda out, target: -((out[:, 0] - target) ** 2))
    torch.testing.assert_close(custom.log_prob(outputs, y), -((outputs[:, 0] - y) ** 2))
    with pytest.raises(hmc_fast.UserError, match="noise_std 0"):
        hmc_fast.Gaussian(0)


# --- schedules ---


def test_cosine_cycles():
    schedule = hmc_fast.CosineCyclical(4, keep=2)
    steps = torch.arange(24)
    fraction = torch.cat([schedule.fraction(s.view(1), 3) for s in steps])
    assert fraction[:13].tolist() == pytest.approx([k / 12 for k in range(12)] + [0.0])
    learning_rate = torch.cat([schedule.multiplier(s.view(1), 3) for s in steps]) ** 2
    torch.testing.assert_close(learning_rate, 0.5 * (1 + torch.cos(math.pi * fraction)))
    assert [schedule.keeps(i) for i in range(8)] == [False, False, True, True] * 2
    for options, message in (
        ({"cycle_length": 0}, "cycle length 0"),
        ({"cycle_length": 3, "keep": 4}, "keep 4"),
        ({"cycle_length": 3, "exploration": 1.0}, "exploration 1.0"),
    ):
        with pytest.raises(hmc_fast.UserError, match=message):
            hmc_fast.CosineCyclical(**options)


def test_polynomial_decay():
    schedule = hmc_fast.PolynomialDecay(offset=10.0, power=0.6)
    step = torch.tensor([0, 1, 30])
    learning_rate = schedule.multiplier(step, 7) ** 2  # counted in steps, whatever an iteration holds
    expected = (10.0 + step.double()) ** -0.6 / 10.0**-0.6
    torch.testing.assert_close(learning_rate, expected)
    assert not schedule.explores(step, 7).any()
    assert schedule.keeps(5)
    for options, message in (({"offset": 0.0}, "offset 0.0"), ({"offset": 1.0, "power": 1.5}, "power 1.5")):
        with pytest.raises(hmc_fast.UserError, match=message):
            hmc_fast.PolynomialDecay(**options)


# --- diagnostics, against arviz on the same draws ---


def chains(kind, num_chains, length):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((num_chains, length, 3))
    if kind == "iid":
        return noise
    if kind == "heavy":
        return rng.standard_t(1.5, (num_chains, length, 3))
    if kind == "shifted":
        return noise + np.arange(num_chains)[:, None, None]
    if kind == "scaled":
        return noise * (1 + np.arange(num_chains))[:, None, None]
    out = np.zeros_like(noise)
    coefficient = 0.95 if kind == "slow" else -0.6
    for t in range(1, length):
        out[:, t] = coefficient * out[:, t - 1] + noise[:, t]
    return out


@pytest.mark.parametrize("kind", ["iid", "heavy", "shifted", "scaled", "slow", "alternating"])
@pytest.mark.parametrize(("num_chains", "length"), [(4, 200), (3, 101), (1, 400)])
def test_diagnostics_agree_with_arviz(kind, num_chains, length):
    x = chains(kind, num_chains, length)
    for q in range(3):
        if num_chains > 1:  # arviz refuses one chain; its two halves can be compared all the same
            assert rhat(x)[q] == pytest.approx(float(arviz.rhat(x[:, :, q])), rel=1e-6)
        assert ess_bulk(x)[q] == pytest.approx(float(arviz.ess(x[:, :, q])), rel=1e-3)


def test_diagnostics_of_what_cannot_be_judged():
    assert np.isnan(rhat(np.ones((2, 20, 1)))).all()
    assert np.isnan(ess_bulk(np.ones((2, 20, 1)))).all()
    assert np.isnan(rhat(np.random.default_rng(0).normal(size=(2, 3, 4)))).all()
