"""Streamed averages: equal to stacked draws, repeats counted, from logits as from probabilities, in a run."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.metrics import log_loss
from torch import Tensor

import hmc_fast
from cases import classifier
from hmc_fast.kernels import ops
from hmc_fast.results.model_average import StreamedAverage


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
    own = -0.5 * ((y - m) ** 2 / v + np.log(2 * np.pi * v))
    np.testing.assert_allclose(result.log_density, special.logsumexp(own, axis=0) - np.log(10))
    scaled = result.rescaled(3.0, 2.0)
    np.testing.assert_allclose(scaled.aleatoric, 4 * result.aleatoric)
    np.testing.assert_allclose(scaled.epistemic, 4 * result.epistemic, atol=1e-12)
    np.testing.assert_allclose(scaled.log_density, result.log_density - math.log(2))
    assert StreamedAverage("regression", (2, 6, 2)).log_density.shape == (0,)
    assert scaled.rmse(3 + 2 * y) == pytest.approx(2 * result.rmse(y))
    assert scaled.log_likelihood(3 + 2 * y) == pytest.approx(result.log_likelihood(y) - math.log(2))


IMPLS = pytest.mark.parametrize("impl", ["triton", "torch"])


def random_logits(device: str, *shape: int, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)


def exact(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and entropies in float64, by scipy."""
    p = special.softmax(logits.double().cpu().numpy(), axis=-1)
    return p, special.entr(p).sum(-1)


def test_logits_and_probabilities_average_alike() -> None:
    draws = random_logits("cpu", 6, 2, 23, 4)
    labels = torch.randint(0, 4, (23,), generator=torch.Generator().manual_seed(0))
    options = {"shape": (2, 23, 4), "labels": labels, "num_draws": 13}
    fused, plain = (StreamedAverage("classification", **options) for _ in range(2))
    for logits in draws:
        p = fused.update_from_logits(logits)
        torch.testing.assert_close(p, torch.softmax(logits, -1))
        fused.update(p)  # a repeat
        for _ in range(2):
            plain.update(torch.softmax(logits, -1))
    assert fused.count == plain.count == 12
    torch.testing.assert_close(fused.sums, plain.sums, rtol=1e-6, atol=0)
    torch.testing.assert_close(fused.second, plain.second, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fused.curve, plain.curve, rtol=1e-6, atol=0, equal_nan=True)
    assert fused.update_from_logits(draws[0].double()).dtype == torch.float64


@IMPLS
def test_a_run_averages_the_softmax_of_its_draws(device: str, impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejected proposals' repeats included, which the operation is not called for."""
    posterior, x, y = classifier()
    calls = []
    real = functools.partial(ops.accumulate_softmax, impl=impl)
    monkeypatch.setattr(ops, "accumulate_softmax", lambda *a: (calls.append(1), real(*a)))
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.2, num_leapfrog=3),
        chains=2,
        burn_in=3,
        draws=25,
        test=(x, y),
        draw_dtype=torch.float32,
        device=device,
        progress=False,
    )
    moved = (run.draws[1:] != run.draws[:-1]).any((1, 2))
    assert len(calls) == 1 + moved.sum() < 25, "the example must hold a rejection by both chains"
    logits = torch.stack([posterior.outputs(torch.tensor(draw), x) for draw in run.draws])
    p, entropies = exact(logits)  # (S, C, T, K)
    np.testing.assert_allclose(run.test.chain_probs, p.mean(0), atol=1e-6)
    np.testing.assert_allclose(run.test.aleatoric, entropies.mean((0, 1)), atol=2e-6)
    single = -np.log(p[:, :, np.arange(len(y)), y.numpy()]).mean(-1)
    np.testing.assert_allclose(run.curve[:, 4:], single, rtol=1e-4)
    np.testing.assert_allclose(run.curve[-1, 1], run.test.nll(y.numpy()), rtol=1e-6)


class Tempered(hmc_fast.likelihoods.Categorical):
    def predict(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs / 4, dim=-1)


def test_a_likelihood_with_predictions_of_its_own_keeps_them() -> None:
    posterior, x, y = classifier()
    assert posterior.predicts_softmax
    tempered = hmc_fast.Posterior(posterior._trainable(), (posterior.x, posterior.y), Tempered())
    assert not tempered.predicts_softmax
    run = hmc_fast.run(tempered, hmc_fast.HMC(0.05, num_leapfrog=3), chains=1, burn_in=1, draws=3, test=(x, y),
                       draw_dtype=torch.float32, progress=False)  # fmt: skip
    expected = torch.stack([tempered.predict(torch.tensor(draw), x) for draw in run.draws]).mean(0)
    np.testing.assert_allclose(run.test.chain_probs, expected.numpy(), atol=1e-6)
