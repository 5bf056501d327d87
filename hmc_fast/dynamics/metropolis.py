"""The Metropolis-Hastings test: accept with probability min(1, exp(-dH)), without reading a value back."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

__all__ = [
    "DIVERGENCE_THRESHOLD",
    "Acceptance",
    "MetropolisTest",
    "check_acceptance",
    "likelihood_difference",
    "metropolis_test",
]

Acceptance = Literal["log_ratio", "density_ratio"]

# A larger energy error counts as a divergence: Stan's value, arbitrary but common.
DIVERGENCE_THRESHOLD = 1000.0


def check_acceptance(rule: Acceptance) -> Acceptance:
    """Returns the rule; UserError for an unknown name."""
    if rule not in ("log_ratio", "density_ratio"):
        raise UserError(f"acceptance rule {rule!r} is unknown: use 'log_ratio' or 'density_ratio'")
    return rule


class MetropolisTest(NamedTuple):
    """The outcome for each chain, `(C,)`."""

    accepted: Tensor  # bool
    accept_prob: Tensor  # float64, min(1, exp(-dH))
    divergent: Tensor  # bool


def likelihood_difference(log_lik: Tensor, new_log_lik: Tensor) -> Tensor:
    """log L(new) - log L(old), float64 `(C,)`, summed from per-example differences.

    log_lik, new_log_lik: `(C, N)`. Totals are never subtracted: at N = 60,000 a float32 total has a spacing of up
    to 0.004, and summation error comes on top.
    """
    return (new_log_lik.double() - log_lik.double()).sum(1)


def metropolis_test(
    energy_error: Tensor, uniform: Tensor, rule: Acceptance = "log_ratio", *, untested: Tensor | None = None
) -> MetropolisTest:
    """Whether each chain accepts its proposal.

    Args:
        energy_error: dH, float64 `(C,)`; NaN or infinite means reject and count a divergence.
        uniform: in (0, 1), `(C,)`.
        rule: "log_ratio" tests log u < -dH. "density_ratio" is the textbook form
            u < p(new) N(m_new) / (p(old) N(m_old)). Densities would under- or overflow, so the ratio is computed
            as exp of a difference of logarithms: the same test, up to rounding.
        untested: bool, `(1,)`: where true, every finite dH is accepted.
    """
    finite = energy_error.abs() < torch.inf
    safe = torch.where(finite, energy_error, torch.inf)
    accept_prob = torch.exp(-safe.clamp_min(0))
    uniform = uniform.double()
    if rule == "log_ratio":
        accepted = torch.log(uniform) < -safe
    else:
        accepted = uniform < torch.exp(-safe)
    if untested is not None:
        accepted = accepted | (untested & finite)
    return MetropolisTest(accepted, accept_prob, safe > DIVERGENCE_THRESHOLD)
