"""Trajectory lengths, given or adapted: what HMC and AdjustedMCLMC share.

`adaptation/warm_up.py` defines what is adapted. This file applies it to a chain: it sets the step size, the metric
and the number of steps. They are read back to the host once per iteration of burn-in and never afterwards.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adaptation import Proposed, WarmUp, Windows, find_step_size, mean_over_groups
from ..arguments import positive, whole_number
from ..compute.capture import Graph
from ..compute.random_streams import JITTER, host_uniform, host_uniforms
from ..dynamics.integrators import Integrator, whole_steps
from ..errors import UserError
from ..targets.base import Target
from .metropolis_chain import GradientChain

__all__ = [
    "GUESSED_LEAPFROG",
    "AdaptiveChain",
    "TrajectoryLength",
    "WindowAdaptation",
    "check_integrator",
    "check_target_acceptance",
]

_MAX_LEAPFROG = 1024  # steps of one adapted trajectory, as in Stan's deepest tree
# The limit before the first metric is learned; each window then multiplies it by four. Lengths derived from a poor
# metric waste gradients (a regression on a raw predictor took 700 steps in its second window).
_EARLY_LEAPFROG = 64
# Of an adapted trajectory, for forecasts: 28 to 40 on digits with networks of 375 to 6,310 parameters and 60 to 400
# iterations of burn-in; 3 to 30 on targets of up to 1,000 dimensions; 31 to 400 on a network with little noise.
GUESSED_LEAPFROG = 30
_SETTLING = 10  # iterations in which dual averaging, begun anew, tries step sizes far from the one that it finds


@dataclass(frozen=True)
class TrajectoryLength:
    """The number of leapfrog steps per iteration, the same for all chains; validates the settings of `HMC`.

    owner: the sampler's name in error messages. stages: of the integrator.

    Raises:
        UserError: see `HMC`.
    """

    owner: str
    step_size: float | None
    trajectory_length: float | None
    num_leapfrog: int | None
    jitter: float
    adapt: bool
    stages: int

    def __post_init__(self) -> None:
        if self.step_size is None and not self.adapt:
            raise UserError(f"{self.owner} needs a step size, or adapt=True to learn one during burn-in")
        if self.step_size is not None:
            positive("step size", self.step_size)
        given = (self.trajectory_length is not None) + (self.num_leapfrog is not None)
        if given == 2 or (given == 0 and not self.adapt):
            raise UserError(f"{self.owner} needs either trajectory_length or num_leapfrog, but not both")
        if self.trajectory_length is not None:
            positive("trajectory length", self.trajectory_length)
        if self.num_leapfrog is not None:
            whole_number("number of leapfrog steps", self.num_leapfrog)
        if not 0 <= self.jitter < 1:
            raise UserError(f"jitter {self.jitter} must lie in [0, 1)")

    @property
    def steps(self) -> int | None:
        """L, as given or computed from trajectory length and step size; None if it has yet to be learned."""
        if self.num_leapfrog is not None:
            return whole_steps(self.num_leapfrog, self.stages)
        if self.trajectory_length is not None and self.step_size is not None:
            return whole_steps(self.trajectory_length / self.step_size, self.stages)
        return None

    def forecast(self, warm_up_iterations: int, iterations: int) -> tuple[int, int]:
        """Gradients of a chain in all `iterations`, warm-up included: expected, and at most (without jitter)."""
        if self.num_leapfrog is not None or not self.adapt:
            known = iterations * (self.steps or self.stages)
            return known, known
        ends = Windows.of(warm_up_iterations).ends
        parts = itertools.pairwise((0, *ends, iterations))
        most = sum((end - first) * _most_leapfrog(closed, len(ends)) for closed, (first, end) in enumerate(parts))
        return iterations * GUESSED_LEAPFROG, most

    def jittered(self, num_leapfrog: int, seed: int, iteration: int) -> int:
        """L of this iteration, a multiple of the integrator's stages."""
        if self.jitter == 0:
            return num_leapfrog
        uniform = host_uniform(seed, JITTER, iteration)
        stages = num_leapfrog / self.stages * (1 + self.jitter * (2 * uniform - 1))
        return max(1, round(stages)) * self.stages

    def all_jittered(self, num_leapfrog: int, seed: int, iterations: range) -> Tensor:
        """L of each of many iterations, int64."""
        if self.jitter == 0:
            return torch.full((len(iterations),), num_leapfrog)
        uniforms = host_uniforms(seed, JITTER, iterations)
        stages = num_leapfrog / self.stages * (1 + self.jitter * (2 * uniforms - 1))
        return stages.round().clamp_min(1).long() * self.stages


def _most_leapfrog(closed: int, windows: int) -> int:
    """The longest trajectory, once `closed` of all slow windows are over."""
    return _MAX_LEAPFROG if closed == windows else min(_EARLY_LEAPFROG * 4**closed, _MAX_LEAPFROG)


class WindowAdaptation:
    """Learns a chain's step size, metric and number of leapfrog steps during burn-in.

    Args:
        sampler: any with the settings of `HMC`. theta: `(C, D)`, the initial states.
        unit_of_length: the distance the dynamics travels while HMC, at unit mass and scale, travels 1.

    Attributes:
        inverse_mass: `(D,)` or `(C, D)`, learned in place.
        num_leapfrog: of the next trajectory, before jitter.

    Raises:
        UserError: there is no burn-in.
    """

    def __init__(self, sampler: Any, theta: Tensor, warm_up_iterations: int, unit_of_length: float) -> None:
        if warm_up_iterations < 1:
            raise UserError("adapt=True learns during burn-in: set burn_in, for example to 600 iterations")
        metric = theta.new_ones(1 if sampler.pool else len(theta), theta.shape[1])
        self.metric_given = sampler.inverse_mass is not None
        if self.metric_given:
            metric.copy_(sampler.inverse_mass)
        self.warm_up = WarmUp(metric, len(theta), warm_up_iterations, sampler.target_acceptance)
        self.length: TrajectoryLength = sampler.length
        self.unit_of_length = unit_of_length
        self.inverse_mass = metric[0] if sampler.pool else metric
        self.num_leapfrog = self.length.steps or self.length.stages

    def begin(self, chain: GradientChain, trial: Callable[[], Tensor]) -> None:
        """Sets a first metric and step size at the current theta.

        trial: dH `(C,)` of one step at the chain's step sizes.
        """
        self.warm_up.decorrelation.start(math.pi / 2, chain.theta)
        if not self.metric_given:
            self.warm_up.first_metric(chain.theta, _force(chain))
        self._search_step_size(chain, trial, 0)

    def learn(self, chain: "AdaptiveChain", accept_prob: Tensor, trial: Callable[[], Tensor]) -> None:
        """Adapts to one iteration of burn-in; the last one fixes everything."""
        iteration, warm_up = chain.iteration.count, self.warm_up
        time = chain.step_size * (chain.next_num_leapfrog() / self.unit_of_length)
        proposed = Proposed(chain.proposal.theta, accept_prob, time)
        if warm_up.learn(iteration, chain.theta, _force(chain), proposed):
            self._search_step_size(chain, trial, iteration + 1)
            return
        last = iteration + 1 >= warm_up.warm_up_iterations
        dual = warm_up.dual_averaging
        if last:
            warm_up.decorrelation.settle()
        self._set_step_size(chain, dual.averaged if last else dual.step_size)

    def _search_step_size(self, chain: GradientChain, trial: Callable[[], Tensor], iteration: int) -> None:
        groups = self.warm_up.step_size_groups(iteration)

        def accept_prob(step_size: Tensor) -> Tensor:
            chain.set_step_size(step_size)
            probability = torch.exp(-trial().clamp_min(0))
            return mean_over_groups(torch.nan_to_num(probability, nan=0.0), groups)

        begin = mean_over_groups(chain.step_size.log(), groups).exp()
        step_size = find_step_size(accept_prob, begin)
        self.warm_up.dual_averaging.restart(step_size)
        self._set_step_size(chain, step_size)

    def _set_step_size(self, chain: GradientChain, step_size: Tensor) -> None:
        """Sets the step sizes `(C,)` and the number of steps to match, unless the user gave that number."""
        chain.set_step_size(step_size)
        if self.length.num_leapfrog is not None:
            return
        length = self.length.trajectory_length or self.unit_of_length * self.warm_up.trajectory_length
        ends = self.warm_up.windows.ends
        closed = sum(end <= chain.iteration.count for end in ends)
        # Early on, the smallest step size decides: that chain may be the farthest from the typical set.
        typical = float(step_size.min() if closed == 0 else step_size.log().mean().exp())
        most = _most_leapfrog(closed, len(ends))
        self.num_leapfrog = min(whole_steps(length / typical, self.length.stages), most)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.warm_up.tensors, "num_leapfrog": torch.tensor([self.num_leapfrog])}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.warm_up.tensors.items():
            tensor.copy_(tensors[name])
        self.num_leapfrog = int(tensors["num_leapfrog"])


class AdaptiveChain(GradientChain):
    """Chains of a sampler that has the settings of `HMC`.

    Attributes:
        adaptation: adapts during burn-in; None without adapt.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.
        untested: `(1,)` bool, whether this iteration accepts every finite proposal.
    """

    def __init__(
        self,
        sampler: Any,
        target: Target,
        theta: Tensor,
        seed: int,
        graph: Graph,
        warm_up_iterations: int,
        *,
        unit_of_length: float = 1.0,
    ) -> None:
        super().__init__(target, theta, seed, graph)
        self.adaptation: WindowAdaptation | None = None
        self.inverse_mass: Tensor | None = sampler.inverse_mass
        if sampler.adapt:
            self.adaptation = WindowAdaptation(sampler, theta, warm_up_iterations, unit_of_length)
            self.inverse_mass = self.adaptation.inverse_mass
        self.untested = torch.zeros(1, dtype=torch.bool, device=target.device)
        self._length: TrajectoryLength = sampler.length
        self.set_step_size(sampler.step_size or 1.0)

    @property
    def learned_gradients(self) -> int | None:
        """Gradients per iteration, when the step size has settled after a window, or when warm-up ended; None
        otherwise, or if given."""
        if self.adaptation is None or self._length.num_leapfrog is not None:
            return None
        warm_up = self.adaptation.warm_up
        after_windows = [end + _SETTLING for end in warm_up.windows.ends]
        learned = self.iteration.count in (*after_windows, warm_up.warm_up_iterations)
        return self.adaptation.num_leapfrog if learned else None

    @property
    def length_varies(self) -> bool:
        """Whether trajectories differ in length."""
        return self.adaptation is not None or self._length.jitter > 0

    def next_num_leapfrog(self) -> int:
        """Leapfrog steps of the next iteration, jitter included."""
        return self._length.jittered(self._num_leapfrog, self.seed, self.iteration.count)

    def next_lengths(self, number: int) -> Tensor:
        """Leapfrog steps of the next `number` iterations without adaptation, int64."""
        begin = self.iteration.count
        return self._length.all_jittered(self._num_leapfrog, self.seed, range(begin, begin + number))

    @property
    def _num_leapfrog(self) -> int:
        steps = self.adaptation.num_leapfrog if self.adaptation else self._length.steps
        return steps or self._length.stages


def check_target_acceptance(target_acceptance: float) -> float:
    """Returns the number; UserError if it is not in (0, 1)."""
    if not 0 < target_acceptance < 1:
        raise UserError(f"target acceptance {target_acceptance} must lie between 0 and 1")
    return target_acceptance


def check_integrator(integrator: Integrator) -> Integrator:
    """Returns the integrator; UserError for anything else, such as a name."""
    if not isinstance(integrator, Integrator):
        raise UserError(f"integrator {integrator!r} is unknown: use hmc_fast.LEAPFROG or hmc_fast.TWO_STAGE")
    return integrator


def _force(chain: GradientChain) -> Tensor:
    """Gradient of log density over T at the current theta, `(C, D)`."""
    force = torch.empty_like(chain.theta)
    chain.target.force(chain.theta, chain.grad, force)
    return force
