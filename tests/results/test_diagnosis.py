"""The sentences of a diagnosis: each appears where it should and is absent from a healthy run; and the figures
of a run that they rest on."""

import dataclasses

import arviz
import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.results.diagnosis import EnergyError, Evidence, sentences
from hmc_fast.results.diagnostics import ess_mean, plain_rhat
from targets import correlated_gaussian, linear_regression

CHAINS, DRAWS = 4, 500


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def healthy():
    """What a run of independent draws knows of itself."""
    return Evidence(
        potential=640 + 8 * noise(CHAINS, DRAWS),
        energy_errors=np.empty(0),
        proposals=CHAINS * DRAWS,
        acceptance_rate=0.8,
        e_bfmi=np.array([1.0, 0.9, 1.1, 0.8]),
        kinetic_temperature=1 + 0.05 * noise(CHAINS, DRAWS, seed=1),
        function=noise(CHAINS, DRAWS, 3, seed=2),
        parameters=np.empty((CHAINS, DRAWS, 0)),
        test_score=-0.3 + 0.01 * noise(CHAINS, DRAWS, seed=3),
        weight_rhat=np.full(10, 1.001),
    )


def shifted(values, chain, by):
    values = values.copy()
    values[chain] += by
    return values


def slow(seed=0):
    """Autocorrelated chains of one distribution: their predictions are worth few independent draws."""
    x = noise(CHAINS, DRAWS, 3, seed=seed)
    for t in range(1, DRAWS):
        x[:, t] = 0.9 * x[:, t - 1] + np.sqrt(1 - 0.81) * x[:, t]
    return x


def error(variance=4e-4, asked=5e-4, spikes=0, rounding=1e-4):
    return EnergyError(variance, asked, spikes, DRAWS, rounding, "float32", num_params=100)


base = healthy()
BARE = {"function": np.empty((CHAINS, DRAWS, 0)), "test_score": None}
CASES = [
    (
        {"potential": shifted(base.potential, 2, 172)},
        "3 of 4 chains agree in potential energy; chain 2 is higher (mean 812",
    ),
    ({"potential": shifted(base.potential, 1, -172)}, "chain 1 is lower"),
    (
        {"potential": base.potential + 100 * np.array([0, 0, 1, 1])[:, None]},
        "The chains' mean potential energies range from 6",
    ),
    ({"acceptance_rate": 0.21}, "The acceptance rate is 0.21, below 0.4: use a smaller step size"),
    ({"acceptance_rate": 0.984}, "The acceptance rate is 0.984, above 0.95"),
    (
        {"energy_errors": np.array([2e3, 4e3, 6e3, np.nan])},
        "4 of 2000 proposals after burn-in diverged (median energy error 4e+03, 1 not finite)",
    ),
    ({"energy_errors": np.array([np.inf])}, "1 of 2000 proposals after burn-in diverged (no finite energy error)"),
    ({"e_bfmi": np.array([1.0, 0.12, 0.9, 0.25])}, "E-BFMI is below 0.3 in chains 1, 3 (smallest 0.12)"),
    ({"kinetic_temperature": base.kinetic_temperature + 0.25}, "The kinetic temperature is 1.2"),
    ({"function": shifted(base.function, 0, 2.0)}, "of the predictions reaches 1.3"),
    ({"function": shifted(base.function, 0, 0.4)}, "and is above 1.01 for"),
    ({"function": slow()}, "The smallest effective sample size of the predictions is"),
    ({"function": np.ones((CHAINS, DRAWS, 3))}, "No prediction changed in any chain"),
    ({"test_score": shifted(base.test_score, 3, 0.05)}, "R-hat of the test log likelihood of single draws is"),
    (
        {"weight_rhat": np.array([1.0, 3.1, np.nan])},
        "R-hat of the weights reaches 3.10 and is above 1.05 for 50 %",
    ),
    (BARE | {"parameters": shifted(base.function, 0, 2.0)}, "R-hat of the parameters reaches 1.3"),
    (BARE | {"parameters": shifted(base.function, 0, 0.4)}, "R-hat of the parameters reaches 1.0"),
    (BARE | {"parameters": slow()}, "The smallest effective sample size of the parameters is"),
    (BARE | {"parameters": np.ones((CHAINS, DRAWS, 3))}, "No parameter changed in any chain"),
    ({"energy_error": error(variance=1.1e-3)}, "of at least 0.0011 per dimension and step, 2.2 times the 0.0005"),
    ({"energy_error": error(spikes=3)}, "The energy error of 3 of 500 iterations is more than 100 times the usual"),
    (
        {"energy_error": error(rounding=0.03, asked=1e-6)},
        "in float32 changes energies by about 0.03, and the step size was tuned to an error of 0.01: use float64, "
        "or an energy_variance above 9e-05.",
    ),
]


def test_a_healthy_run_has_one_sentence_that_says_so():
    (only,) = sentences(healthy())
    assert only.kind == "fine"
    assert only.startswith("No check found a problem: R-hat of the predictions is at most 1.0")
    assert "acceptance 0.80 without divergences, E-BFMI at least 0.80" in only


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_each_sentence_appears_where_it_should_and_only_there(changes, expected):
    said = sentences(dataclasses.replace(healthy(), **changes))
    (found,) = (sentence for sentence in said if expected in sentence)
    assert found.kind == ("note" if "weights" in expected else "warning")
    assert not any(expected in sentence for sentence in sentences(healthy()))
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in said)


def test_what_is_not_wrong_is_not_said():
    """A temperature within its error, a rate of few proposals, weights that are bad as the predictions are."""
    wide = dataclasses.replace(healthy(), kinetic_temperature=1.02 + 0.5 * noise(CHAINS, DRAWS, seed=1))
    assert not any("temperature" in sentence for sentence in sentences(wide))
    few = dataclasses.replace(healthy(), acceptance_rate=23 / 24, proposals=24)
    assert not any("above 0.95" in sentence for sentence in sentences(few))
    bad = dataclasses.replace(healthy(), weight_rhat=np.array([3.0]), function=shifted(base.function, 0, 2.0))
    assert not any("harmless" in sentence for sentence in sentences(bad))
    harmless = sentences(dataclasses.replace(healthy(), weight_rhat=np.array([3.0])))
    assert harmless[0].startswith("No check found a problem")
    assert "harmless" in harmless[1]
    assert [sentence.kind for sentence in harmless] == ["fine", "note"]
    persistent = dataclasses.replace(healthy(), acceptance_rate=0.99, partial_refreshment=True, e_bfmi=None)
    assert not any("above 0.95" in sentence for sentence in sentences(persistent))
    for own in (error(), error(variance=1.0, asked=None), error(rounding=1.0, asked=None)):
        assert not any(
            "energy error" in told for told in sentences(dataclasses.replace(healthy(), energy_error=own))
        )
    bare = dataclasses.replace(healthy(), **BARE, parameters=noise(CHAINS, DRAWS, 3), weight_rhat=np.array([3.0]))
    (only,) = sentences(bare)
    assert only.startswith("No check found a problem: R-hat of the parameters is at most 1.0")
    everywhere = dataclasses.replace(healthy(), **BARE, parameters=shifted(base.function, 0, 20.0))
    assert any("is above 1.05 for 100 % of them" in told for told in sentences(everywhere))


def test_one_chain_and_few_draws_are_said_to_tell_little():
    one = {
        "potential": base.potential[:1],
        "e_bfmi": base.e_bfmi[:1],
        "kinetic_temperature": base.kinetic_temperature[:1],
        "function": base.function[:1],
        "test_score": base.test_score[:1],
    }
    assert sentences(dataclasses.replace(healthy(), **one))[-1].startswith("With one chain, only its two halves")
    short = {name: values[:, :3] for name, values in vars(healthy()).items() if np.ndim(values) > 1}
    (only,) = sentences(dataclasses.replace(healthy(), **short))
    assert only == "3 draws per chain are too few to assess convergence: take at least 4."


# --- the figures of real runs ---


def sampled(sampler=None, target=None, **options):
    options = {"chains": 3, "burn_in": 20, "draws": 400, "progress": False, "draw_dtype": torch.float32} | options
    target = linear_regression()[0] if target is None else target
    return hmc_fast.run(target, sampler or hmc_fast.HMC(0.08, num_leapfrog=5, jitter=0.3), **options)


def test_temperatures_of_a_tempered_posterior_are_1():
    """T = 3 widens the posterior; the energies are divided by it, so the temperatures stay 1."""
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 50, temperature=3.0, dtype=torch.float64)
    run = sampled(hmc_fast.HMC(0.5, num_leapfrog=4, jitter=0.3), density, init=torch.zeros(50), draws=150)
    # 2K/D and theta . grad U / D are chi-square_50 / 50 per draw, of standard deviation 0.2
    assert run.diagnostics.kinetic_temperature == pytest.approx(1, abs=0.1)
    assert run.diagnostics.configurational_temperature(150) == pytest.approx(1, abs=0.1)
    assert run.diagnostics.configurational_temperature() == pytest.approx(1, abs=0.25)
    assert (run.draws.astype(float) ** 2).mean() == pytest.approx(3, rel=0.08)
    with pytest.raises(hmc_fast.UserError, match="num_draws 0"):
        run.diagnostics.configurational_temperature(0)


def test_energies_of_the_trace():
    posterior, _ = linear_regression()
    posterior.temperature = 3.0
    run = sampled(target=posterior, thin=2, draws=40)
    trace = run.trace[run.trace.phase == "sampling"]
    energy = trace.kinetic_energy - (trace.log_likelihood + trace.log_prior) / run.target.temperature
    energies = energy.to_numpy().reshape(-1, 3).T
    assert energies.shape == (3, 80)  # thinned iterations included: successive energies are what counts
    np.testing.assert_allclose(run.diagnostics.e_bfmi, arviz.bfmi(energies), rtol=1e-6)
    sghmc = sampled(hmc_fast.SGHMC(0.02, friction=5.0, batch_size=20), draws=20)
    assert sghmc.diagnostics.e_bfmi is None
    assert sghmc.diagnostics.kinetic_temperature.shape == (3,)


def test_divergent_iterations_are_those_after_burn_in():
    run = sampled(hmc_fast.HMC(1.5, num_leapfrog=12), draws=30)
    frame = run.diagnostics.divergent_iterations
    assert list(frame.columns) == ["chain", "iteration", "energy_error"]
    assert len(frame) == run.divergences > 0
    assert (frame.iteration >= 20).all()
    assert not (frame.energy_error <= 1000).any()
    said = " ".join(run.diagnosis())
    assert f"{run.divergences} of 90 proposals after burn-in diverged" in said
    assert "below 0.4" in said
    assert len(sampled(draws=30).diagnostics.divergent_iterations) == 0


def test_weights_are_judged_all_of_them_whatever_the_block(monkeypatch):
    run = sampled(target=correlated_gaussian().density, draws=50, init=torch.zeros(3))
    values = np.moveaxis(run.draws, 0, 1)
    monkeypatch.setattr("hmc_fast.results.diagnostics._VALUES_READ", 2 * 50 * 3)  # two parameters
    frame = run.diagnostics.weights()
    assert len(frame) == 3
    np.testing.assert_allclose(frame["r_hat"], plain_rhat(values))
    np.testing.assert_allclose(frame["ess_mean"], ess_mean(values))
    np.testing.assert_allclose(frame["mean"], values.mean((0, 1)), rtol=1e-5)


def network():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    y = (x[:, 0] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return hmc_fast.Posterior(model, (x[:40], y[:40]), prior=hmc_fast.Normal(1.0)), (x[40:], y[40:])


def test_single_draws_scores_are_log_likelihoods():
    posterior, test = network()
    run = sampled(target=posterior, test=test, draws=12)
    probs = posterior.predict(torch.tensor(run.draws[7]), test[0])
    expected = probs.gather(-1, test[1].expand(3, 20)[..., None])[..., 0].log().mean(1)
    np.testing.assert_allclose(run.diagnostics.test_log_likelihood[:, 7], expected, rtol=1e-4)
    kinds = run.summary().kind
    assert (kinds == "test_log_likelihood").sum() == 1
    assert run.summary().columns.tolist()[-3:] == ["ess_bulk", "ess_tail", "r_hat"]
    assert sampled(draws=5).diagnostics.test_log_likelihood is None


def test_a_chain_left_elsewhere_is_named():
    """Two wells of unequal depth that no trajectory crosses: the third chain begins in the shallow one."""

    def log_density(theta):
        return torch.logaddexp(-50 * ((theta - 2) ** 2).sum(), -50 * ((theta + 2) ** 2).sum() - 40)

    density = hmc_fast.Density(log_density, 2, dtype=torch.float64)
    start = torch.tensor([[2.0, 2.0], [2.0, 2.0], [-2.0, -2.0]])
    sampler = hmc_fast.HMC(0.15, num_leapfrog=2, jitter=0.3)
    options = {"burn_in": 5, "draws": 80}
    said = " ".join(sampled(sampler, density, init=start, **options).diagnosis())
    assert "2 of 3 chains agree in potential energy; chain 2 is higher" in said
    assert "R-hat of the parameters reaches" in said
    together = " ".join(sampled(sampler, density, init=start[0], **options).diagnosis())
    assert "potential" not in together


def normal_density(dim, offset=0.0):
    return hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum() - offset, dim)


def test_a_bare_density_is_judged_by_rank_and_effective_size():
    density = normal_density(5)
    good = sampled(hmc_fast.HMC(0.6, num_leapfrog=3, jitter=0.5), density, draws=2000)
    assert good.diagnosis()[0].startswith("No check found a problem: R-hat of the parameters is at most 1.00")
    poor = " ".join(sampled(hmc_fast.HMC(0.1, num_leapfrog=2), density, draws=400).diagnosis())
    assert "R-hat of the parameters reaches" in poor
    assert "The smallest effective sample size of the parameters is" in poor


def test_a_momentum_that_persists_is_not_blamed_for_it():
    run = sampled(hmc_fast.GHMC(0.1, friction=0.5), normal_density(20), draws=1200)
    assert run.acceptance_rate > 0.97
    assert run.diagnostics.e_bfmi is None
    said = " ".join(run.diagnosis())
    assert "E-BFMI" not in said
    assert "above 0.95" not in said


@pytest.mark.slow
def test_energy_errors_of_microcanonical_dynamics():
    """Tuned by itself it is within what was asked for; then to an error that rounding alone exceeds."""
    options = {"draws": 120, "burn_in": 150, "chains": 4}
    fine = sampled(hmc_fast.MCLMC(), normal_density(10), **options)
    assert 0 < fine.diagnostics.evidence.energy_error.variance < 5e-4
    assert "nergy" not in " ".join(fine.diagnosis())
    rounded = sampled(hmc_fast.MCLMC(energy_variance=1e-6), normal_density(10, offset=1e6), **options)
    assert any("Rounding in float32 changes energies by about 0.12, and" in told for told in rounded.diagnosis())
    steep = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum() - 1e4 * torch.relu(theta[0] - 2.5) ** 2, 10)
    spiky = " ".join(sampled(hmc_fast.MCLMC(1.0), steep, **options).diagnosis())
    assert "times the usual one, so the step is too coarse in some region" in spiky
    assert sampled(hmc_fast.SGHMC(0.02, friction=5.0), draws=20).diagnostics.evidence.energy_error is None
