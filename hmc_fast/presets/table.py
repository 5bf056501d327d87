"""The presets: for each, its tuned samplers and their run settings."""

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from ..dynamics.integrators import whole_steps
from ..dynamics.schedules import CosineCyclical
from ..samplers import AMAGOLD, GHMC, HMC, MCLMC, SGHMC, AdjustedMCLMC, Sampler, SplitHMC
from ..targets.priors import suggested_trajectory_length
from .sampler_arguments import argument_types, arguments_of, make_sampler
from .settings import SampleSettings

__all__ = ["PRESETS", "RunSpecification", "adapting", "preset_run"]

ADAPTING_BURN_IN = 200  # iterations: Stan's first and last phase, and slow windows for the inverse mass
ADAPTING_DRAWS = 100  # on digits; R-hat of the predictions is 1.06 with 50


@dataclass(frozen=True)
class RunSpecification:
    """Everything that defines a run: the sampler and the settings of the run."""

    settings: SampleSettings
    sampler: Sampler

    def flat(self) -> dict[str, Any]:
        """All settings by name."""
        return {"sampler": self.sampler.name, **dataclasses.asdict(self.settings), **arguments_of(self.sampler)}


_DIGITS = SampleSettings("digits", data="digits", model="mlp", prior_variance=0.2, chains=4, init="prior")
_FASHION = SampleSettings("", data="fashion-mnist", activation="silu", init="model", train_epochs=10)
_LENET = replace(_FASHION, preset="fashion-lenet", model="lenet", prior_variance=0.02)
_RESNET = replace(_FASHION, preset="fashion-resnet20", model="resnet20", prior_variance=0.2)


def _uci(name: str, step_size: float) -> dict[str, RunSpecification]:
    """One step size per data set: the smaller the residual noise, the stiffer the posterior."""
    settings = SampleSettings(f"uci-{name}", data=f"uci-{name}", model="uci-mlp", prior_variance=0.2, init="model")
    return {
        "hmc": RunSpecification(
            replace(settings, burn_in=120, draws=100),
            HMC(step_size, trajectory_length=300 * step_size, test_in_burn_in=False),
        ),
        "sghmc": RunSpecification(
            replace(settings, burn_in=200, draws=200),
            SGHMC(step_size, friction=0.1 / step_size, batch_size=32, steps_per_iteration=100),
        ),
    }


# By preset and sampler; a preset's first sampler is its default.
PRESETS: dict[str, dict[str, RunSpecification]] = {
    "digits": {
        # No Metropolis test in burn-in, as in Izmailov et al. 2021: with it, 2 of 20 chains (seeds 0 to 4) started
        # in a steep region of the prior, rejected every proposal, and never left it.
        "hmc": RunSpecification(
            replace(_DIGITS, burn_in=25, draws=50),
            HMC(0.02, trajectory_length=suggested_trajectory_length(0.2), test_in_burn_in=False),
        ),
        # Chosen from nine pairs, step sizes .002 to .012 and frictions 4 to 25. Total variation between one chain
        # and HMC on the test set after 150 epochs: .066 at (.004, 25), .036 here, .032 at (.008, 4). After 600:
        # .021 here, .020 at (.008, 4) and (.012, 8); but their NLL differs from HMC's by .004, and here by at most
        # .001.
        "sghmc": RunSpecification(
            replace(_DIGITS, burn_in=50, draws=100), SGHMC(0.008, friction=8.0, batch_size=128)
        ),
        # Acceptance rates of 4 chains: .83 to .96. With adapt, its trajectories would take minutes.
        "adjusted_mclmc": RunSpecification(
            replace(_DIGITS, burn_in=25, draws=50),
            AdjustedMCLMC(1.2, trajectory_length=40.0, test_in_burn_in=False),
        ),
    },
    "fashion-resnet20": {
        "sghmc": RunSpecification(
            replace(_RESNET, chains=4, burn_in=20, draws=40),
            SGHMC(9.13e-4, friction=109.5, batch_size=128, schedule=CosineCyclical(10, keep=4)),
        ),
        # For a first look on a CPU with --train-size 1000, where a gradient takes about a second: from a fresh
        # network, a chain fits the data within a few short trajectories; the paper's length is 0.7025.
        "hmc": RunSpecification(
            replace(_RESNET, chains=1, burn_in=6, draws=10),
            HMC(5e-3, trajectory_length=0.1, test_in_burn_in=False),
        ),
    },
    "fashion-lenet": {
        # Learning rate .05 on the mean loss (step size^2 times N), momentum .9, no noise in the exploration stage.
        # Measured on full Fashion-MNIST: BMA accuracy .9171 and NLL .2296 after 60 epochs in total; 3 chains with
        # noise throughout need 150 for .916 and .236.
        "sghmc": RunSpecification(
            replace(_LENET, chains=4, burn_in=5, draws=4),
            SGHMC(9.13e-4, friction=109.5, batch_size=128, schedule=CosineCyclical(5, keep=2, exploration=0.6)),
        ),
        "hmc": RunSpecification(
            replace(_LENET, chains=1, burn_in=5, draws=10),
            HMC(5e-4, trajectory_length=0.01, test_in_burn_in=False),
        ),
    },
    "uci-concrete": _uci("concrete", 4e-4),
    "uci-energy": _uci("energy", 1e-4),
    "uci-yacht": _uci("yacht", 1e-4),
}


def preset_run(preset: str, sampler: str) -> RunSpecification:
    """The preset's entry for the sampler, or one derived from its other entries."""
    entries = PRESETS[preset]
    return entries[sampler] if sampler in entries else _derived(sampler, entries["hmc"], entries["sghmc"])


def adapting(run: RunSpecification, sampler: Sampler) -> RunSpecification:
    """The run with a sampler that adapts, and with enough burn-in and draws for it."""
    burn_in, draws = max(run.settings.burn_in, ADAPTING_BURN_IN), max(run.settings.draws, ADAPTING_DRAWS)
    settings = replace(run.settings, burn_in=burn_in, draws=draws)
    return RunSpecification(settings, sampler)


def _derived(name: str, full: RunSpecification, minibatch: RunSpecification) -> RunSpecification:
    """Settings for a sampler without an entry, from the preset's HMC and SGHMC. Tested on digits only."""
    if name == "mclmc":
        return adapting(minibatch, MCLMC())
    if name in ("ghmc", "split_hmc", "amagold", "adjusted_mclmc"):
        return _with_test(name, full, minibatch)
    sghmc = arguments_of(minibatch.sampler)
    # Total variation between one chain's average and HMC's after 150 epochs: .068 (sgld), .035 to .036 (sghmc,
    # psgld, sgnht, baoab).
    changes = {
        "sgld": {"step_size": 4 * sghmc["step_size"] ** 2},  # its learning rate, half of this, is twice sghmc's
        "psgld": {"step_size": 0.2 * sghmc["step_size"] ** 2, "damping": 1e-3},
    }.get(name, {})
    shared = {argument: value for argument, value in sghmc.items() if argument in argument_types(name)}
    settings = minibatch.settings
    if name == "smsubu":  # its iteration is a sweep of two epochs
        settings = replace(settings, burn_in=settings.burn_in // 2, draws=settings.draws // 2)
    return RunSpecification(settings, make_sampler(name, shared | changes))


def _with_test(name: str, full: RunSpecification, minibatch: RunSpecification) -> RunSpecification:
    """Settings for a sampler with a Metropolis test. Acceptance rates are those of 4 chains on digits."""
    hmc, sghmc = arguments_of(full.sampler), arguments_of(minibatch.sampler)
    eps, length = hmc["step_size"], hmc["trajectory_length"]
    steps = whole_steps(length / eps)
    if name == "ghmc":
        # Rejections reverse the momentum, so they must be rare: half of HMC's step size, a quarter of its length
        # (acceptance .95 to .97; at HMC's step size .78 to .83). With this friction the momentum decorrelates over
        # the length of one HMC trajectory.
        settings = replace(full.settings, burn_in=2 * full.settings.burn_in)
        return RunSpecification(settings, GHMC(eps / 2, friction=1 / length, num_leapfrog=max(1, steps // 2)))
    if name == "split_hmc":
        # HMC's step size (acceptance .79 to .95; at 1.5 times it .38 to .61).
        return RunSpecification(full.settings, SplitHMC(eps, num_splits=2, trajectory_length=length))
    if name == "adjusted_mclmc":
        # Its step size is about sqrt(D) times HMC's, so we learn it; the number of steps is HMC's (acceptance .91
        # to .95).
        return adapting(full, AdjustedMCLMC(adapt=True, num_leapfrog=steps))
    # Short trajectories on large minibatches, started at fresh networks (acceptance .64 to .71). With minibatches
    # of 128, the energy they inject leads to rejection of longer trajectories (an epoch at a fifth of HMC's step
    # size: acceptance 0 to .08), and chains started from the prior never moved.
    settings = replace(full.settings, init="model", burn_in=200, draws=200)
    friction, batch_size = sghmc["friction"] / 4, 4 * sghmc["batch_size"]
    return RunSpecification(settings, AMAGOLD(eps / 20, friction=friction, batch_size=batch_size, num_leapfrog=10))
