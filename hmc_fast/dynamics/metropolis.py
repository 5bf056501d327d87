"""The Metropolis-Hastings test: accept with probability min(1, exp(-dH)), without reading a value back."""

from typing import Literal, NamedTuple

from torch import Tensor

from ..errors import UserError
from ..kernels import ops

__all__ = [
    "DIVERGENCE_THRESHOLD",
    "Acceptance",
    "MetropolisTest",
    "check_acceptance",
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
    accepted, accept_prob, divergent = ops.metropolis_test(
        energy_error, uniform, DIVERGENCE_THRESHOLD, density_ratio=rule == "density_ratio", untested=untested
    )
    return MetropolisTest(accepted, accept_prob, divergent)
