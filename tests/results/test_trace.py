"""The trace: figures by name, the columns of `trace.csv`, and what a checkpoint gives back."""

import time

import numpy as np
import pandas as pd
import pytest
import torch

import hmc_fast
from hmc_fast.results import trace as module
from hmc_fast.results.trace import MOST_ITERATIONS, TRACE_COLUMNS, Plan, Trace
from hmc_fast.samplers import Info

# README's table of files and the report read these.
COLUMNS = [
    "log_likelihood", "log_prior", "energy_error", "accept_prob", "accepted", "divergent", "step_size",
    "leapfrog_steps", "seconds", "kinetic_energy",
]  # fmt: skip


def info(iteration):
    """Figures of two chains, all different but for the two flags."""
    first = 100.0 * iteration
    return Info(
        log_likelihood=torch.tensor([first + 1, first + 2], dtype=torch.float64),
        log_prior=torch.tensor([first + 3, first + 4], dtype=torch.float64),
        energy_error=torch.tensor([first + 5, torch.nan]),
        accept_prob=torch.tensor([0.25, 0.5]),
        accepted=torch.tensor([True, False]),
        divergent=torch.tensor([False, True]),
        step_size=torch.tensor([first + 9, first + 10]),
        kinetic_energy=torch.tensor([first + 11, first + 12]),
        num_leapfrog=7 + iteration,
    )


def filled(iterations=3):
    trace = Trace.empty(iterations, 2)
    for iteration in range(iterations):
        trace.record(iteration, info(iteration))
        trace.seconds[iteration] = 0.5 * iteration
    return trace


@pytest.mark.parametrize("name", [name for name in TRACE_COLUMNS if name not in ("leapfrog_steps", "seconds")])
def test_each_figure_is_found_under_its_own_name(name):
    values = getattr(filled(), name)
    expected = [getattr(info(iteration), name).double().numpy() for iteration in range(3)]
    np.testing.assert_array_equal(values, expected)
    assert values.dtype == np.float64


def test_the_figures_that_are_the_same_for_all_chains():
    trace = filled()
    assert trace.leapfrog_steps.tolist() == [[7, 7], [8, 8], [9, 9]]
    assert trace.seconds.tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    assert trace.log_density[1].tolist() == [101 + 103, 102 + 104]
    assert len(trace) == 3


def test_the_columns_of_the_file_and_their_order():
    frame = filled().frame(burn_in=1)
    assert list(frame.columns) == ["chain", "iteration", "phase", *COLUMNS]
    assert frame.chain.tolist() == [0, 1] * 3
    assert frame.iteration.tolist() == [0, 0, 1, 1, 2, 2]
    assert frame.phase.tolist() == ["burn_in"] * 2 + ["sampling"] * 4
    assert frame.kinetic_energy.tolist() == [11, 12, 111, 112, 211, 212]
    whole = [name for name in COLUMNS if frame[name].dtype == np.int64]
    assert whole == ["accepted", "divergent", "leapfrog_steps"]
    assert frame.divergent.tolist() == [0, 1] * 3
    parts = [filled()[:2].frame(1), filled()[2:].frame(1, first=2)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frame)


def test_some_iterations_of_a_trace():
    trace = filled()
    np.testing.assert_array_equal(trace[1:].log_prior, trace.log_prior[1:])
    np.testing.assert_array_equal(trace[[2, 0]].leapfrog_steps[:, 0], [9, 7])


def test_an_interrupted_trace_goes_on_where_it_was():
    saved = filled().rows(0, 2)
    assert saved.shape == (2, len(COLUMNS), 2)
    trace = Trace.empty(3, 2)
    trace.restore(saved)
    assert np.isnan(trace.step_size[2]).all()
    trace.record(2, info(2))
    trace.seconds[2] = 1
    for name in TRACE_COLUMNS:
        np.testing.assert_array_equal(getattr(trace, name), getattr(filled(), name))


# --- the plan ---

CYCLE = hmc_fast.CosineCyclical(5, keep=2)


class Odd(hmc_fast.HMC):
    def keeps(self, iteration):
        return iteration % 3 == 1


SAMPLERS = [
    hmc_fast.HMC(0.1, num_leapfrog=2),
    hmc_fast.SGHMC(0.1, friction=1.0),
    hmc_fast.SGHMC(0.1, friction=1.0, schedule=CYCLE),
    hmc_fast.SGLD(0.1, schedule=hmc_fast.PolynomialDecay(3.0)),
    Odd(0.1, num_leapfrog=2),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["hmc", "sghmc", "cyclical", "decaying", "of the user's own"])
@pytest.mark.parametrize(("burn_in", "draws", "thin"), [(0, 7, 1), (3, 6, 2), (11, 1, 5), (4, 5, 3)])
def test_kept_iterations_are_those_counted_one_by_one(sampler, burn_in, draws, thin):
    eligible = [iteration for iteration in range(burn_in, 1000) if sampler.keeps(iteration)]
    kept = Plan(burn_in, draws, thin).kept_iterations(sampler)
    assert kept == eligible[thin - 1 :: thin][:draws]
    assert all(type(iteration) is int for iteration in kept)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["hmc", "sghmc", "cyclical", "decaying", "of the user's own"])
@pytest.mark.parametrize(
    ("burn_in", "draws", "thin"),
    [(0, 10**8, 1), (0, 1, 10**12), (10**8, 1, 1), (0, 2**63 - 1, 2**63 - 1), (2**22, 9, 9)],
)
def test_a_long_run_is_planned_or_refused_in_a_second(sampler, burn_in, draws, thin):
    begin = time.perf_counter()
    if burn_in + draws * thin > MOST_ITERATIONS:
        with pytest.raises(hmc_fast.UserError, match="iterations, and at most"):
            Plan(burn_in, draws, thin).kept_iterations(sampler)
    else:
        assert len(Plan(burn_in, draws, thin).kept_iterations(sampler)) == draws
    assert time.perf_counter() - begin < 1


def test_a_cycle_that_never_keeps_is_refused():
    sampler = hmc_fast.SGHMC(0.1, friction=1.0, schedule=hmc_fast.CosineCyclical(2**63 - 1))
    with pytest.raises(hmc_fast.UserError, match="smaller thin or cycle length"):
        Plan(0, 1).kept_iterations(sampler)


def test_a_sampler_that_keeps_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_ITERATIONS", 1000)
    sampler = Odd(0.1, num_leapfrog=2)
    sampler.keeps = lambda iteration: False
    with pytest.raises(hmc_fast.UserError, match="at most 1,000"):
        Plan(0, 1).kept_iterations(sampler)


def test_a_trace_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: 8 * len(COLUMNS) * 6 - 1)
    with pytest.raises(hmc_fast.UserError, match="3 iterations of 2 chains takes 480 B, and 479 B are free"):
        Trace.empty(3, 2)
    monkeypatch.setattr(module, "free_memory", lambda device: 8 * len(COLUMNS) * 6)
    assert len(Trace.empty(3, 2)) == 3
