"""What a run says about its work before it starts, and once burn-in has learned more."""

import re

import pytest
import torch

import hmc_fast
from cases import classifier
from hmc_fast.engine.expected_work import LearnedWork, expected_gradients
from hmc_fast.results.trace import Plan


def forecast(sampler, burn_in=60, draws=30):
    return expected_gradients(sampler, classifier()[0], Plan(burn_in, draws, 1))


@pytest.mark.parametrize(
    ("sampler", "per_iteration"),
    [
        (hmc_fast.HMC(0.1, num_leapfrog=7), 7),
        (hmc_fast.HMC(0.1, trajectory_length=0.3), 3),
        (hmc_fast.HMC(adapt=True, num_leapfrog=7), 7),
        (hmc_fast.HMC(adapt=True, step_size=0.1, integrator=hmc_fast.TWO_STAGE, num_leapfrog=6), 6),
        (hmc_fast.AdjustedMCLMC(0.1, num_leapfrog=5), 5),
        (hmc_fast.SGHMC(0.1, friction=1.0, batch_size=20), 4),
    ],
)
def test_known_lengths_are_counted(sampler, per_iteration):
    assert forecast(sampler) == (90 * per_iteration, ())


@pytest.mark.parametrize("sampler", [hmc_fast.HMC(adapt=True), hmc_fast.AdjustedMCLMC(adapt=True)])
def test_lengths_to_be_learned_are_a_range(sampler):
    """One window, which ends after 54 iterations: 64 steps at most before, 1,024 afterwards."""
    expected, (line,) = forecast(sampler)
    assert expected == 90 * 30
    assert f"about {expected:,} gradients of each chain, at most {54 * 64 + 36 * 1024:,}" in line


def test_several_windows_have_limits_of_their_own():
    """Stan's for 1,000 iterations end after 100, 150, 250, 450 and 950."""
    expected, (line,) = forecast(hmc_fast.HMC(adapt=True), 1000, 100)
    assert expected == 1100 * 30
    assert f"at most {100 * 64 + 50 * 256 + 950 * 1024:,}" in line


def test_a_network_takes_no_more_than_it_was_told(capfd):
    """What is told when a window closes and after burn-in is what is then done."""
    posterior, *_ = classifier()
    options = {"chains": 2, "burn_in": 60, "draws": 10, "seed": 1, "compile": False}
    run = hmc_fast.run(posterior, hmc_fast.HMC(adapt=True), **options)
    told = capfd.readouterr().err
    expected, most = (
        int(n.replace(",", "")) for n in re.findall(r"about ([\d,]+) gradients .* at most ([\d,]+)", told)[0]
    )
    steps = run.history.leapfrog_steps[:, 0]
    assert steps.sum() <= min(2 * expected, most)
    learned = [int(n.replace(",", "")) for n in re.findall(r"trajectories of ([\d,]+) leapfrog", told)]
    assert 1 <= len(learned) <= 2
    assert 0.5 * learned[-1] <= steps[60:].mean() <= 2 * learned[-1]


class Learning:
    learned_gradients: int | None = None


def test_it_is_told_again_when_it_doubles_or_halves():
    work, state, trace = LearnedWork(), Learning(), hmc_fast.results.trace.Trace.empty(4, 2)
    trace.seconds[:], trace.leapfrog_steps[:] = 0.5, 10
    told = []
    for state.learned_gradients in (None, 40, 60, 79, 80, None, 41, 40, 15):
        told.append(work.news(state, 10, trace))
    shown = [line for line in told if line]
    assert [bool(line) for line in told] == [False, True, False, False, True, False, False, True, True]
    assert "about 400 gradients of each chain are left, 20 s" in shown[0]


def test_nothing_learned_nothing_told():
    state = hmc_fast.HMC(0.1, num_leapfrog=2).init(classifier()[0], torch.zeros(1, 67))
    assert state.learned_gradients is None
