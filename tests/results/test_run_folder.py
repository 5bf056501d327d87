"""A run's folder: what the run wrote is what is read back, and a damaged file is named."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.results.run_folder import write_scores
from hmc_fast.results.run_folder_reader import read_run

SHIFT, SCALE = 20.0, 3.0  # of regression's original units


def posterior(regression):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 3, generator=generator)
    y = x[:, 0] if regression else (x[:, 0] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1 if regression else 2))
    likelihood = "gaussian" if regression else "categorical"
    return hmc_fast.Posterior(model, (x[:60], y[:60]), likelihood, temperature=2.0), (x[60:], y[60:])


@pytest.fixture(scope="module", params=[False, True], ids=["classification", "regression"])
def made(request, tmp_path_factory):
    """A run, its folder, and its test labels."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    target, test = posterior(request.param)
    run = hmc_fast.run(
        target,
        hmc_fast.HMC(0.05, num_leapfrog=4),
        chains=3,
        burn_in=4,
        draws=12,
        test=test,
        out=directory,
        config={"temperature": 2.0},
        progress=False,
    )
    write_scores(directory, "mine", run, test[1].numpy(), SHIFT, SCALE)
    return run, directory, test[1].numpy()


def test_what_was_written_is_read_back(made):
    run, directory, labels = made
    folder = read_run(directory)
    assert folder.num_chains == 3
    assert folder.burn_in_end == 4
    assert folder.has_mh_test
    assert folder.metrics["preset"] == "mine"
    pd.testing.assert_frame_equal(folder.trace, run.trace, check_exact=False)
    test = run.test
    if folder.is_classification:
        np.testing.assert_allclose(folder.predictions["probs"], test.probs, rtol=1e-6)
        assert folder.predictions["labels"].tolist() == labels.tolist()
        assert folder.metrics["accuracy"] == test.accuracy(labels) == folder.predictions["curve_accuracy"][-1]
    else:
        np.testing.assert_allclose(folder.predictions["mean"], SHIFT + SCALE * test.mean)
        np.testing.assert_allclose(folder.predictions["variance"], SCALE**2 * test.variance)
        np.testing.assert_allclose(folder.predictions["labels"], SHIFT + SCALE * labels, rtol=1e-6)
        # A density in units three times as large is lower by log 3.
        expected = test.log_likelihood(labels) - np.log(SCALE)
        assert folder.metrics["log_likelihood"] == pytest.approx(expected, rel=1e-6)
        for name in ("rmse", "log_likelihood"):
            assert folder.predictions[f"curve_{name}"][-1] == pytest.approx(folder.metrics[name], rel=1e-5)
    assert folder.metrics["gradients"] == 16 * 3 * 4
    assert folder.gradients_at_draws()[-1] == folder.metrics["gradients"]


def test_the_folder_and_the_run_tell_the_same_energies(made):
    run, directory, _ = made
    folder = read_run(directory)
    assert folder.has_energies
    np.testing.assert_allclose(folder.e_bfmi(), run.diagnostics.e_bfmi, rtol=1e-6)
    assert folder.metrics["e_bfmi_min"] == pytest.approx(run.diagnostics.e_bfmi.min())


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "trace.csv", "predictions.npz"])
def test_a_file_that_is_missing_or_cut_is_named(made, name, tmp_path):
    _, directory, _ = made
    shutil.copytree(directory, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(hmc_fast.UserError, match=f"{name} "):
        read_run(tmp_path / "copy")
    path.unlink()
    with pytest.raises(hmc_fast.UserError, match=f"{name} is missing or cannot be read"):
        read_run(tmp_path / "copy")


def test_a_run_without_test_inputs_has_no_scores(made, tmp_path):
    run, _, labels = made
    untested = dataclasses.replace(run, test=None, curve=None)
    with pytest.raises(hmc_fast.UserError, match="without test inputs has no scores"):
        write_scores(tmp_path, "mine", untested, labels, SHIFT, SCALE)
    assert not list(tmp_path.iterdir())
