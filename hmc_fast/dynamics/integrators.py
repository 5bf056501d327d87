"""Symplectic, reversible trajectories: kick, L times (drift, kick).

An integrator is defined by the lengths of its kicks. Every drift has length eps, so an integrator with k stages
takes k steps of eps. Integrators with the same step size therefore cost the same and can be compared directly.

There is one gradient per step: the one at the start was kept from the last accepted state, and the one at the end
is kept for the next trajectory. A kick and the drift after it are one launch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..compute.capture import Graph, graph_pool
from ..compute.recording import Repeats, repeat
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target
from .gradient_step import GradientStep

__all__ = ["INTEGRATORS", "LEAPFROG", "TWO_STAGE", "Integrator", "PhasePoint", "Trajectory", "whole_steps"]

_MOST_LEAPFROG = 2**31  # some hours of the smallest gradients


@dataclass
class PhasePoint:
    """A point in phase space for each of C chains, in buffers at fixed addresses."""

    theta: Tensor  # (C, D)
    momentum: Tensor  # (C, D)
    grad: Tensor  # (C, D) of the log likelihood at theta
    log_lik: Tensor  # (C, N) of each example at theta

    @classmethod
    def like(cls, theta: Tensor, num_data: int) -> "PhasePoint":
        """Uninitialised, for chains like `theta (C, D)`."""
        new = torch.empty_like
        return cls(new(theta), new(theta), new(theta), theta.new_empty(len(theta), num_data))


@dataclass(frozen=True)
class Integrator:
    """The kicks of a palindromic kick-drift integrator, in units of the step size.

    `end` is the first and last kick of a trajectory; `inner` repeats between the drifts. The last inner kick merges
    two end kicks, and the inner kicks sum to the number of stages.
    """

    name: str
    end: float
    inner: tuple[float, ...]

    @property
    def stages(self) -> int:
        """Steps of eps after which the kicks repeat; a trajectory takes a multiple of them."""
        return len(self.inner)

    def trajectory(
        self,
        target: Target,
        point: PhasePoint,
        coefficients: Tensor,
        *,
        inverse_mass: Tensor | None = None,
        graph: Graph = False,
    ) -> "Trajectory":
        """The trajectory that moves `point`; see `Trajectory`."""
        return Trajectory(self, target, point, coefficients, inverse_mass=inverse_mass, graph=graph)


# Velocity Verlet: stable up to a step of 2 standard deviations.
LEAPFROG = Integrator("leapfrog", end=0.5, inner=(1.0,))

# McLachlan 1995 (SIAM J. Sci. Comput. 16, 151), the two-stage scheme with the smallest leading error term:
# kicks a, 1 - 2a, a with half drifts between, over a step of 2 eps.
_A = 0.1931833275037836
TWO_STAGE = Integrator("two_stage", end=2 * _A, inner=(2 * (1 - 2 * _A), 4 * _A))

INTEGRATORS = {integrator.name: integrator for integrator in (LEAPFROG, TWO_STAGE)}


class Trajectory:
    """Moves a phase point along the Hamiltonian flow, in place.

    Args:
        point: its gradient must match its theta when a trajectory begins, and does again when it ends.
        coefficients: `(C, 4)`, see `Coefficients`: the kick and the drift of a whole step.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.
        graph: see `gradient_step.GradientStep`; a graph captures one leapfrog step.
    """

    def __init__(
        self,
        integrator: Integrator,
        target: Target,
        point: PhasePoint,
        coefficients: Tensor,
        *,
        inverse_mass: Tensor | None = None,
        graph: Graph = False,
    ) -> None:
        theta, momentum, grad, log_lik = point.theta, point.momentum, point.grad, point.log_lik

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik)

        def kick_drift(fraction: float) -> None:
            ops.kick_drift(
                theta, momentum, grad, target.prior, coefficients, fraction=fraction, inverse_mass=inverse_mass
            )

        def last_kick() -> None:
            ops.kick(momentum, grad, theta, target.prior, coefficients, fraction=integrator.end)

        buffers, pool = (theta, momentum, grad, log_lik), graph_pool(target.device, graph)

        def step(update: Callable[[], None]) -> GradientStep:
            return GradientStep(target, gradient, update, buffers, count=target.num_data, graph=graph, pool=pool)

        self.repeats = Repeats()
        self._begin = partial(kick_drift, integrator.end)
        self._steps = [step(partial(kick_drift, fraction)) for fraction in integrator.inner]
        self._last = step(last_kick)

    def set_length(self, num_leapfrog: int) -> None:
        """Sets the number of steps of eps, a multiple of the integrator's stages."""
        assert num_leapfrog % len(self._steps) == 0
        self.repeats.set(num_leapfrog // len(self._steps) - 1)

    def rounds(self, lengths: Tensor) -> dict[Repeats, Tensor]:
        """What `set_length` would set for each of several trajectories."""
        return {self.repeats: lengths // len(self._steps) - 1}

    def run(self) -> None:
        """The whole trajectory: the kicks repeat, and the last one ends half way."""
        self._begin()
        repeat(self._round, self.repeats)
        for step in self._steps[:-1]:
            step()
        self._last()

    def _round(self) -> None:
        for step in self._steps:
            step()


def whole_steps(num_leapfrog: float, stages: int = 1) -> int:
    """Rounds up to a multiple of the integrator's stages. A small tolerance absorbs floating-point error, so that a
    quotient such as .3 / .1 = 2.9999999999999996 or 3.0000000000000004 gives 3.

    Raises:
        UserError: more than _MOST_LEAPFROG steps.
    """
    if not num_leapfrog <= _MOST_LEAPFROG:
        raise UserError(
            f"trajectory length and step size make {num_leapfrog:.3g} leapfrog steps, and at most "
            f"{_MOST_LEAPFROG:,} are possible: use a larger step size or a shorter trajectory"
        )
    return max(1, math.ceil(num_leapfrog / stages * (1 - 1e-9))) * stages
