"""Everything that HMC adapts during burn-in: step size, inverse mass, trajectory length.

    every iteration         step size of each chain, by dual averaging towards the target acceptance
    in the slow windows     variances of draws and gradients, and the largest variance in any direction
    when a window closes    M^-1 from the variances; trajectory length pi/2 sqrt(largest variance); a new search for
                            the step size
    after the last window   one step size for all chains (if they are pooled), from their mean acceptance
    after burn-in           everything is frozen, the step size at its average

Chains have their own step sizes until the metric is learned: otherwise a chain that starts far out, where the
others' step size is too large, could stay there forever. For a Gaussian target, the trajectory length carries the
widest direction through a quarter of its period, to an independent draw; it is in units in which the mass is the
identity, and all chains share it.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .dual_averaging import DualAveraging
from .moments import Moments, diagonal_inverse_mass
from .principal_variance import PrincipalVariance
from .windows import Windows

__all__ = ["WarmUp", "mean_over_groups"]

_QUARTER_PERIOD = math.pi / 2


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
        self.principal = PrincipalVariance(inverse_mass.new_zeros(1 + num_params))
        self.trajectory_length = inverse_mass.new_full((1,), _QUARTER_PERIOD)

    @property
    def tensors(self) -> dict[str, Any]:
        return {
            "dual_averaging": self.dual_averaging.state,
            "draw_moments": self.draws.state,
            "gradient_moments": self.gradients.state,
            "principal": self.principal.state,
            "trajectory_length": self.trajectory_length,
        }

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

    def learn(self, iteration: int, theta: Tensor, gradient: Tensor, accept_prob: Tensor) -> bool:
        """Adapts to one iteration of burn-in. Returns whether the metric changed; if so, search for a new step size
        and call `dual_averaging.restart`.

        theta: `(C, D)`. gradient: of log density over T at theta, `(C, D)`. accept_prob: `(C,)`.
        """
        finite = torch.nan_to_num(accept_prob, nan=0.0)
        self.dual_averaging.update(mean_over_groups(finite, self.step_size_groups(iteration)))
        if not self.windows.is_slow(iteration):
            return False
        self.draws.update(theta)
        self.gradients.update(gradient)
        mean, scale = self._per_chain(self.draws.mean, theta), self._per_chain(self.inverse_mass, theta)
        self.principal.update((theta - mean) * scale.rsqrt())
        if not self.windows.closes(iteration):
            return False
        self.trajectory_length.copy_(_QUARTER_PERIOD * self.principal.value.sqrt())
        self._update_metric()
        return True

    def _update_metric(self) -> None:
        self.inverse_mass.copy_(
            diagonal_inverse_mass(self.draws.variance, self.gradients.variance, self.inverse_mass)
        )
        self.draws.reset()
        self.gradients.reset()
        self.principal.reset()

    def _per_chain(self, values: Tensor, theta: Tensor) -> Tensor:
        return values if len(values) in (1, len(theta)) else values.repeat_interleave(len(theta) // len(values), 0)


def mean_over_groups(values: Tensor, groups: int) -> Tensor:
    """Replaces each chain's value `(C,)` by the mean of its group."""
    return values.unflatten(0, (groups, -1)).mean(1).repeat_interleave(len(values) // groups)
