"""Coupled chains at a step size and at half of it: the bias that they find is that of the discretisation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hmc_fast
from cases import SAMPLERS, classifier, sample, some_slow
from discretisation import FRICTION, obabo, sghmc, sgld, stationary, ubu
from hmc_fast import sample as command
from hmc_fast.kernels import launch
from hmc_fast.kernels.ops import Counter, normals
from hmc_fast.results import bias_certificate
from hmc_fast.results.diagnostics import mcse_mean
from targets import gaussian, linear_regression

COVARIANCE = np.array([[1.0, 0.3], [0.3, 0.3]])
CASES = {
    "sghmc": (sghmc, 0.2, lambda eps: hmc_fast.SGHMC(eps, friction=FRICTION, steps_per_iteration=8)),
    "sgld": (sgld, 0.2, lambda eps: hmc_fast.SGLD(eps, steps_per_iteration=8)),
    "obabo": (
        obabo,
        0.5,
        lambda eps: hmc_fast.UnderdampedLangevin(eps, friction=FRICTION, scheme="obabo", steps_per_iteration=4),
    ),
    "ubu": (ubu, 0.6, lambda eps: hmc_fast.UBU(eps, friction=FRICTION, steps_per_iteration=4)),
}


def variance_bias(algorithm, eps):
    """Relative bias of both variances."""
    force = np.zeros(2), np.linalg.inv(COVARIANCE)
    return stationary(2, algorithm, eps, [[force]])[1] / np.diag(COVARIANCE) - 1


@pytest.mark.parametrize("name", some_slow(CASES, fast=["sghmc", "ubu"]))
def test_it_finds_the_bias_of_the_discretisation(name):
    """Relative to the variances of both chains together, as it is reported."""
    algorithm, eps, make = CASES[name]
    run = sample(gaussian(COVARIANCE), make(eps), chains=256, burn_in=20, draws=40, init=torch.zeros(2))
    found = run.bias_certificate(iterations=60)
    share = 1 - 2.0**-found.order
    coarse, fine = variance_bias(algorithm, eps), variance_bias(algorithm, eps / 2)
    expected = np.sqrt(np.mean(((coarse - fine) / share / (1 + (coarse + fine) / 2)) ** 2))
    assert abs(found.variance.value - expected) < 4 * found.variance.error
    assert found.variance.error < 0.15 * expected
    assert not found.mean.value > 4 * found.mean.error, "the mean has no bias"
    assert found.order == (1 if name.startswith("sg") else 2)
    assert found.step_size == eps
    assert found.gradients == 256 * 60 * 3 * run.sampler.gradients_per_iteration(run.target)


@pytest.mark.parametrize("name", some_slow(["obabo", "sghmc"], fast=["sghmc"]))
def test_coupling_makes_the_difference_small(name):
    """Beside the difference of chains that are independent, on a second moment."""
    _, eps, make = CASES[name]
    run = sample(gaussian(COVARIANCE), make(eps), chains=64, burn_in=20, draws=80, init=torch.zeros(2))
    independent = np.sqrt(2) * mcse_mean(np.moveaxis(run.draws.astype(np.float64) ** 2, 0, 1))[0]
    found = run.bias_certificate(iterations=107)  # 80 of them are compared
    share = 1 - 2.0**-found.order
    assert found.variance.error * share < 0.6 * independent


def test_two_steps_are_joined():
    step = torch.tensor([7])
    joined = normals(Counter(5, 3, step, joins_two=True), 2, 9)
    first, second = (normals(Counter(5, 3, 2 * step + half), 2, 9) for half in (0, 1))
    torch.testing.assert_close(joined, (first + second) / 2**0.5)
    with pytest.raises(ValueError, match="use the twins"):
        launch.counter_arguments(Counter(5, 3, step, joins_two=True), torch.zeros(1))


UNTESTED = [name for name in SAMPLERS if not SAMPLERS[name]().has_metropolis_test]


@pytest.mark.parametrize("name", some_slow(UNTESTED, fast=["mclmc_minibatch", "sghmc_cyclical", "psgld", "smsubu"]))
def test_every_sampler_without_a_test_has_one(name):
    posterior, x, y = classifier()
    sampler = SAMPLERS[name]()
    run = sample(posterior, sampler, chains=2, burn_in=3, draws=6)
    before = torch.get_rng_state()
    found = run.bias_certificate((x, y), iterations=12)
    assert found.iterations == (6 if name.endswith("cyclical") else 9)
    assert torch.equal(torch.get_rng_state(), before)
    for estimate in (found.nll, found.score, found.predictions, found.mean, found.variance):
        assert np.isfinite([estimate.value, estimate.error]).all()
        assert estimate.error > 0 or estimate is found.score, "no accuracy may have changed"
    assert found.sentences()[0].startswith("Bias at step size")
    assert vars(run.sampler) == vars(sampler), "the run's own sampler is as it was"
    again = run.bias_certificate((x, y), iterations=12)
    assert again == found


@pytest.mark.slow
def test_a_fine_step_leaves_no_bias_and_a_coarse_one_does():
    """Of regression: the NLL of the average and the error of single draws."""
    posterior, _ = linear_regression()
    found = []
    for eps in (0.002, 0.08):
        sampler = hmc_fast.SGHMC(eps, friction=4.0, steps_per_iteration=round(0.4 / eps))
        run = sample(posterior, sampler, chains=32, burn_in=10, draws=40)
        found.append(run.bias_certificate((posterior.x, posterior.y), iterations=40))
    assert abs(found[0].nll.value) < 1e-3
    assert not found[0].nll.resolved or abs(found[0].nll.value) < 2e-4
    assert found[1].score.resolved
    assert found[1].score.value > 5 * abs(found[0].score.value), "a hotter chain has larger errors"
    assert "RMSE of single draws" in str(found[1])


def test_an_adapted_sampler_goes_on_with_what_it_learned():
    run = sample(gaussian(np.diag([1.0, 4.0, 0.25])), hmc_fast.MCLMC(), chains=4, burn_in=40, draws=4)
    found = run.bias_certificate(iterations=8)
    assert found.step_size == run.history.step_size[-1, 0]
    assert found.order == 2


def test_signs_and_what_noise_adds():
    """By hand: the coarse chain gives the label half, the fine one .8; rms of differences that are noise alone."""

    def predict(theta, inputs):
        p = theta[:, :1, None].expand(-1, 5, 1)
        return torch.cat([p, 1 - p], dim=-1)

    target = SimpleNamespace(task="classification", num_params=1, device=torch.device("cpu"), predict=predict)
    differences = bias_certificate._Differences(target, torch.zeros(5), torch.zeros(5))
    for _ in range(4):
        differences.add(torch.full((2, 1), 0.5), torch.full((2, 1), 0.8))
    found = differences.estimates(0.5)
    assert found["nll"].value == pytest.approx((0.8 - 0.5) / 0.65 / 0.5)
    assert found["predictions"].value == pytest.approx(0.3 / 0.5)
    noise = np.random.default_rng(0).normal(size=(20, 500))
    alone = bias_certificate._rms(noise, 1.0)
    assert alone.value < 0.6 * alone.error
    assert bias_certificate._rms(noise + 1.0, 1.0).value == pytest.approx(1.0, abs=0.05)


def test_one_chain_knows_less():
    run = sample(gaussian(np.eye(2)), CASES["ubu"][2](0.3), chains=1, burn_in=5, draws=20)
    found = run.bias_certificate(iterations=20)
    assert found.mean is None
    assert found.variance is None
    assert "run two or more" in str(found)


def test_refused():
    posterior, x, y = classifier()
    tested = sample(posterior, hmc_fast.HMC(0.05, num_leapfrog=3), chains=2, burn_in=2, draws=4)
    with pytest.raises(hmc_fast.UserError, match="hmc has a Metropolis test"):
        tested.bias_certificate((x, y))
    run = sample(posterior, SAMPLERS["sghmc"](), chains=2, burn_in=2, draws=4)
    with pytest.raises(hmc_fast.UserError, match="iterations 3"):
        run.bias_certificate((x, y), iterations=3)
    schedule = hmc_fast.CosineCyclical(8, keep=1)
    sampler = hmc_fast.SGHMC(0.02, friction=5.0, batch_size=20, schedule=schedule)
    cyclical = sample(posterior, sampler, chains=2, burn_in=8, draws=1)
    with pytest.raises(hmc_fast.UserError, match="1 of 8 iterations can be compared"):
        cyclical.bias_certificate((x, y), iterations=8)
    with pytest.raises(hmc_fast.UserError, match="3 test labels"):
        run.bias_certificate((x, y[:3]))


def test_the_command_writes_it(tmp_path, capsys):
    small = {"train-size": 60, "width": 8, "chains": 2, "burn-in": 2, "draws": 8}
    arguments = [f"--{name}={value}" for name, value in small.items()] + ["--no-progress", "--certify", "--out"]
    assert command.main(["digits", *arguments, str(tmp_path / "tested")]) == 2
    assert "hmc has a Metropolis test" in capsys.readouterr().err
    assert not (tmp_path / "tested").exists()
    assert command.main(["digits", *arguments, str(tmp_path / "run"), "--sampler=sghmc", "--batch-size=20"]) == 0
    assert "Bias at step size 0.008" in capsys.readouterr().out
    written = json.loads((tmp_path / "run" / "bias.json").read_text())
    assert written["iterations"] == 6
    assert written["nll"]["error"] > 0
