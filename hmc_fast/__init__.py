"""Hamiltonian Monte Carlo, full-batch and stochastic-gradient, for the posterior of any torch model.

import hmc_fast

posterior = hmc_fast.Posterior(model, data=(X, y), prior=hmc_fast.Normal(variance=0.2))
run = hmc_fast.run(posterior, hmc_fast.HMC(step_size=1e-3, trajectory_length=0.7), chains=4)
run.predict(X_test).probs
"""

import sys

from .dynamics.integrators import LEAPFROG, TWO_STAGE
from .dynamics.schedules import CosineCyclical, PolynomialDecay
from .engine.ensemble import Training
from .engine.runner import run
from .errors import UserError
from .results import diagnostics
from .results.run import Run
from .samplers import (
    AMAGOLD,
    GHMC,
    HMC,
    MCLMC,
    PSGLD,
    SGHMC,
    SGLD,
    SGNHT,
    SMSUBU,
    UBU,
    AdjustedMCLMC,
    SplitHMC,
    UnderdampedLangevin,
)
from .targets import likelihoods, priors
from .targets.density import Density
from .targets.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian
from .targets.posterior import Posterior
from .targets.priors import Laplace, Logistic, Mixture, Normal, PerGroup, StudentT

__version__ = "0.1.0"

# Keeps the short paths importable: from hmc_fast.priors import Normal
for _module in (diagnostics, likelihoods, priors):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module

__all__ = [
    "AMAGOLD",
    "GHMC",
    "HMC",
    "LEAPFROG",
    "MCLMC",
    "PSGLD",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "SMSUBU",
    "TWO_STAGE",
    "UBU",
    "AdjustedMCLMC",
    "Bernoulli",
    "Categorical",
    "CosineCyclical",
    "Density",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Laplace",
    "Logistic",
    "Mixture",
    "Normal",
    "PerGroup",
    "PolynomialDecay",
    "Posterior",
    "Run",
    "SplitHMC",
    "StudentT",
    "Training",
    "UnderdampedLangevin",
    "UserError",
    "diagnostics",
    "likelihoods",
    "priors",
    "run",
]
