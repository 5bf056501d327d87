"""The numbers of a page."""

import numpy as np
from sklearn.metrics import log_loss

from hmc_fast.experiments.page import chain_error, scores
from hmc_fast.results.predictions import agreement, total_variation


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(4), 200), rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    found = scores(p, labels)
    assert np.isclose(found["nll"], log_loss(labels, p, labels=range(4)))
    assert np.isclose(found["accuracy"], (p.argmax(1) == labels).mean())
    assert agreement(p, p) == 1
    assert total_variation(p, p) == 0
    assert np.isclose(total_variation(p, q), np.maximum(p - q, 0).sum(1).mean())
    ends = np.eye(2)
    assert agreement(ends, ends[::-1]) == 0
    assert total_variation(ends, ends[::-1]) == 1


def test_error_over_chains_is_the_scatter_of_scores() -> None:
    """What groups of four chains say of themselves is how their scores scatter."""
    rng = np.random.default_rng(4)
    labels = np.zeros(50, np.int64)
    level = 0.5 + 0.05 * rng.standard_normal((1, 400, 1))
    p = np.broadcast_to(np.stack([level, 1 - level], -1), (1, 400, 50, 2))
    few = [chain_error(p[:, k : k + 4], labels, "nll") for k in range(0, 400, 4)]
    scatter = np.std([-np.log(p[0, k : k + 4, 0, 0].mean()) for k in range(0, 400, 4)])
    assert np.isclose(np.mean(few), scatter, rtol=0.2)
    assert np.isnan(chain_error(p[:, :1], labels, "nll"))
