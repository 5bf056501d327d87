"""`hmc_fast.run`: same seed same draws, whatever the capacity; what it refuses."""

import threading

import numpy as np
import pytest
import torch

import hmc_fast
from cases import RUNS, classifier, go


@pytest.mark.parametrize("sampler", RUNS)
def test_same_seed_same_draws_another_seed_others(sampler):
    first, again, other = go(sampler, seed=1), go(sampler, seed=1), go(sampler, seed=2)
    assert np.array_equal(first.draws, again.draws)
    assert np.array_equal(first.test.probs, again.test.probs)
    assert not np.array_equal(first.draws, other.draws)


@pytest.mark.parametrize("capacity", [1, 5, "1KB", 100])
def test_capacity_and_place_change_nothing(capacity, tmp_path):
    reference = go()
    other = go(capacity=capacity, out=tmp_path / "run")
    assert np.array_equal(reference.draws, other.draws)
    assert np.array_equal(np.load(tmp_path / "run" / "draws.npy"), reference.draws)


@pytest.mark.parametrize("sampler", ["hmc", "sghmc"])  # long adapted trajectories amplify rounding without bound
def test_micro_batches_change_rounding_alone(sampler):
    runs = []
    for size in (80, 7):
        posterior, x, _ = classifier(micro_batch_size=size)
        runs.append(hmc_fast.run(posterior, RUNS[sampler](), chains=2, burn_in=0, draws=3, test=x, progress=False))
    np.testing.assert_allclose(runs[0].draws.astype(float), runs[1].draws.astype(float), atol=2e-3)


def test_a_directory_that_holds_a_run_is_refused(tmp_path):
    go(out=tmp_path / "run")
    with pytest.raises(hmc_fast.UserError, match="already contains a run"):
        go(out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(hmc_fast.UserError, match="is a file"):
        go(out=tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains 0 must be at least 1"),
        ({"draws": 0}, "draws 0 must be at least 1"),
        ({"burn_in": -1}, "burn_in -1 must be at least 0"),
        ({"thin": 0}, "thin 0 must be at least 1"),
        ({"seed": -1}, "seed -1 must lie in"),
        ({"capacity": "lots"}, "capacity 'lots' is invalid"),
        ({"capacity": "1B"}, "less than one draw"),
        ({"draw_dtype": torch.bfloat16}, "draw_dtype torch.bfloat16"),
        ({"init": "zero"}, "init 'zero' is unknown"),
        ({"init": torch.zeros(3)}, r"init has shape \(3,\)"),
        ({"resume": True}, "resume needs out"),
        ({"test": torch.zeros(5, 9)}, "test inputs have shape"),
        ({"test": (torch.zeros(5, 4), torch.zeros(4))}, "5 test inputs but 4 test labels"),
        ({"test": (torch.zeros(1, 4), torch.tensor([7]))}, "must be in 0..2"),
    ],
)
def test_bad_options_name_the_value_and_leave_nothing(options, message, tmp_path):
    if "resume" not in options:
        options = options | {"out": tmp_path / "run"}
    with pytest.raises(hmc_fast.UserError, match=message):
        go(**options)
    assert not (tmp_path / "run").exists()


def test_runs_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(go()))
    thread.start()
    thread.join()
    assert np.array_equal(results[0].draws, go().draws)
