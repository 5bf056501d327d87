"""A finished run: its summary, trace, arviz form and predictions."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import hmc_fast
from cases import classifier, go
from targets import linear_regression


def test_streamed_average_equals_predict_over_stored_draws():
    run = go(draw_dtype=torch.float32)
    _, x, _ = classifier()
    again = run.predict(x)
    np.testing.assert_allclose(again.probs, run.test.probs, atol=1e-6)
    np.testing.assert_allclose(again.epistemic, run.test.epistemic, atol=1e-6)
    half = go().predict(x)
    np.testing.assert_allclose(half.probs, run.test.probs, atol=1e-3)


def test_files_of_a_run(tmp_path):
    run = go(out=tmp_path / "run", config={"any": 1}, draw_dtype=torch.float16)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"any": 1, "prior": "Normal(variance=0.5)"}
    trace = pd.read_csv(tmp_path / "run" / "trace.csv")
    assert list(trace.columns[:3]) == ["chain", "iteration", "phase"]
    assert len(trace) == 2 * 15
    assert run.draws.dtype == np.float16
    assert run.draws.shape == (12, 2, run.target.num_params)


def test_summary_trace_and_arviz():
    run = go()
    summary = run.summary()
    assert list(summary.columns) == ["kind", "index", "mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert summary.kind.iloc[0] == "function"
    assert (run.trace.phase == "burn_in").sum() == 2 * 3
    pytest.importorskip("arviz")
    data = run.to_arviz()
    assert data.posterior["0.weight"].shape == (2, 12, 8, 4)
    np.testing.assert_allclose(data.posterior["0.weight"].values[1, 5].ravel(), run.draws[5, 1, :32])
    assert data.sample_stats["lp"].shape == (2, 12)


def test_conjugate_prediction_of_regression():
    posterior, known = linear_regression()
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.06, num_leapfrog=3, jitter=0.3),
        chains=16,
        burn_in=30,
        draws=200,
        draw_dtype=torch.float32,
        test=(posterior.x, posterior.y),
        progress=False,
    )
    x = posterior.x.numpy()
    np.testing.assert_allclose(run.test.mean, x @ known.mean, atol=0.02)
    assert run.test.aleatoric == pytest.approx(0.25)
    assert run.test.log_likelihood(posterior.y.numpy()) == pytest.approx(-0.7, abs=0.2)
