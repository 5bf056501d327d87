"""Everything that HMC adapts during burn-in: step size, inverse mass, trajectory length.

    every iteration         step size of each chain, by dual averaging towards the target acceptance
    from the first window   trajectory length, until proposals hardly remember where they began
    in the slow windows     variances of draws and gradients
    when a window closes    M^-1 from the variances; the trajectory length in its units; a new search for the step
                            size
    after the last window   one step size for all chains (if they are pooled), from their mean acceptance
    after burn-in           everything is frozen, the step size and trajectory length at their averages

Chains have their own step sizes until the metric is learned: otherwise a chain that starts far out, where the
others' step size is too large, could stay there forever. The trajectory length is in units in which the mass is the
identity, and all chains share it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .decorrelation import Decorrelation
from .dual_averaging import DualAveraging
from .moments import Moments, diagonal_inverse_mass
from .windows import Windows

__all__ = ["Proposed", "WarmUp", "mean_over_groups"]


class Proposed(NamedTuple):
    """An iteration's proposals `theta (C, D)`, their probabilities of acceptance `(C,)`, and how long their
    trajectories took `(C,)`, in units of the trajectory length."""

    theta: Tensor
    accept_prob: Tensor
    time: Tensor


class WarmUp:
    """Adapts to C chains in K groups: K = 1 pools them, K = C gives each chain its own metric and step size.

    All tensors but the inverse mass are allocated here and mutated in place; `tensors` names them for a checkpoint.

    Args:
        inverse_mass: initial metric, `(K, D)`; mutated.
        num_chains: C.
        warm_up_iterations: length of burn-in.
        target_acceptance: acceptance probability that the step size is tuned to.
    """

    def __init__(
        self, inverse_mass: Tensor, num_chains: int, warm_up_iterations: int, target_acceptance: float
    ) -> None:
        groups, num_params = inverse_mass.shape
        self.inverse_mass, self.num_chains, self.warm_up_iterations = inverse_mass, num_chains, warm_up_iterations
        self.windows = Windows.of(warm_up_iterations)
        self.dual_averaging = DualAveraging(
            torch.zeros(DualAveraging.rows, num_chains, dtype=torch.float64, device=inverse_mass.device),
            target_acceptance,
        )
        self.draws = Moments(inverse_mass.new_zeros(Moments.rows, groups, num_params))
        self.gradients = Moments(torch.zeros_like(self.draws.state))
        self.decorrelation = Decorrelation(
            torch.zeros(Decorrelation.rows, dtype=torch.float64, device=inverse_mass.device),
            *(inverse_mass.new_zeros(num_chains, num_params) for _ in range(2)),
        )

    @property
    def tensors(self) -> dict[str, Any]:
        return {
            "dual_averaging": self.dual_averaging.state,
            "draw_moments": self.draws.state,
            "gradient_moments": self.gradients.state,
            "decorrelation": self.decorrelation.state,
            "chain_means": self.decorrelation.means,
            "before": self.decorrelation.before,
        }

    @property
    def trajectory_length(self) -> float:
        return float(self.decorrelation.length)

    def first_metric(self, theta: Tensor, gradient: Tensor) -> None:
        """Sets a first metric from the initial states and their gradients, `(C, D)` each: scales that differ by
        orders of magnitude already show there. It needs at least two chains per group, at different states."""
        self.draws.update(theta)
        self.gradients.update(gradient)
        self._update_metric()

    def step_size_groups(self, iteration: int) -> int:
        """Number of groups of chains that share a step size: C, or K once the metric is learned."""
        learned = iteration >= (self.windows.ends or (0,))[-1]
        return len(self.inverse_mass) if learned else self.num_chains

    def learn(self, iteration: int, theta: Tensor, gradient: Tensor, proposed: Proposed) -> bool:
        """Adapts to one iteration of burn-in. Returns whether the metric changed; if so, search for a new step size
        and call `dual_averaging.restart`.

        theta: `(C, D)`, after the iteration. gradient: of log density over T at theta, `(C, D)`.
        """
        finite = torch.nan_to_num(proposed.accept_prob, nan=0.0)
        self.dual_averaging.update(mean_over_groups(finite, self.step_size_groups(iteration)))
        if iteration >= self.windows.first:
            metric = self._per_chain(self.inverse_mass, theta)
            self.decorrelation.update(theta, *proposed, inverse_mass=metric)
        else:
            self.decorrelation.skip(theta)
        if not self.windows.is_slow(iteration):
            return False
        self.draws.update(theta)
        self.gradients.update(gradient)
        if not self.windows.closes(iteration):
            return False
        before, variance = self.inverse_mass.clone(), self.draws.variance
        self._update_metric()
        self.decorrelation.rescale((_scale(variance / self.inverse_mass) / _scale(variance / before)).sqrt())
        return True

    def _update_metric(self) -> None:
        self.inverse_mass.copy_(
            diagonal_inverse_mass(self.draws.variance, self.gradients.variance, self.inverse_mass)
        )
        self.draws.reset()
        self.gradients.reset()

    def _per_chain(self, values: Tensor, theta: Tensor) -> Tensor:
        return values if len(values) in (1, len(theta)) else values.repeat_interleave(len(theta) // len(values), 0)


def _scale(variance: Tensor) -> Tensor:
    """The variance `()` that dominates how fast independent Gaussians with variances `(K, D)` decorrelate."""
    variance = variance.double()
    return (variance**2).sum() / variance.sum()


def mean_over_groups(values: Tensor, groups: int) -> Tensor:
    """Replaces each chain's value `(C,)` by the mean of its group."""
    return values.unflatten(0, (groups, -1)).mean(1).repeat_interleave(len(values) // groups)
