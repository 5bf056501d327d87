"""Hamiltonian Monte Carlo, full batch and stochastic gradient, for the posterior of any torch model.

import hmc_fast

posterior = hmc_fast.Posterior(model, data=(X, y), prior=hmc_fast.Normal(variance=0.2))
run = hmc_fast.run(posterior, hmc_fast.HMC(step_size=1e-3, trajectory_length=0.7), chains=4)
run.predict(X_test).probs
"""

from .errors import UserError
from .likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian
from .posterior import Posterior
from .priors import Laplace, Logistic, Mixture, Normal, PerGroup, StudentT
from .result import Run
from .runner import run
from .samplers import (
    AMAGOLD,
    GHMC,
    HMC,
    MCLMC,
    PSGLD,
    SGHMC,
    SGLD,
    SGNHT,
    AdjustedMCLMC,
    SplitHMC,
    UnderdampedLangevin,
)
from .schedules import CosineCyclical, PolynomialDecay
from .target import Density

__version__ = "0.1.0"

__all__ = [
    "AMAGOLD",
    "GHMC",
    "HMC",
    "MCLMC",
    "PSGLD",
    "SGHMC",
    "SGLD",
    "SGNHT",
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
    "UnderdampedLangevin",
    "UserError",
    "run",
]
