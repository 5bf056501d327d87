"""UBU, a splitting of underdamped Langevin dynamics of strong order two, and SMS-UBU, its minibatches in symmetric
sweeps (Sanz-Serna & Zygalakis 2021, arXiv:2104.12384; Paulin, Whalley, Chada & Leimkuhler 2025, arXiv:2410.19780).

    U(t)   theta and m follow dtheta = M^-1 m dt, dm = -gamma m dt + sqrt(2 gamma M) dW for a time t, exactly
           (two correlated normals per element: `FlowCoefficients`)
    B(t)   m = m + t g,   g = gradient of log density over T at theta, on the full data or a minibatch

    step:  U(eps/2) B(eps) U(eps/2)                     one gradient

    one iteration of n steps, two halves between gradients merged:
        U(eps/2)
        repeat n times:  B(eps), then U(eps), the last time U(eps/2)                one launch each

    symbol   argument              symbol   argument
    eps      step_size             gamma    friction
    M^-1     inverse_mass          kappa    localisation

The law of theta at the end of an iteration is biased at order eps^2. Minibatches drawn independently would add a
bias of order eps; SMS-UBU reads the batches of an epoch forwards, then backwards, which leaves eps^2. A permutation
of each epoch, as UBU reads them, does so too in an example (docs/samplers.md).

    control_variate   g + gradient at theta* on all data - gradient at theta* on the minibatch
    localisation      the log density less kappa/2 |theta - theta*|^2: another posterior, near theta*

theta* is where the chain began: a trained network, say. Both are off unless asked for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import positive
from ..compute.random_streams import FLOW, OPENING
from ..dynamics.coefficients import FlowCoefficients
from ..dynamics.gradient_step import Graph
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from ..targets.examples import Examples
from .minibatch_chain import MinibatchChain, MinibatchSampler
from .protocol import Batch, Info

__all__ = ["SMSUBU", "UBU", "UBUState"]


@dataclass
class _Buffers:
    """Buffers whose contents matter only within a step."""

    opening: Tensor  # (C, 6) coefficients of the half U that begins an iteration
    anchor_grad: Tensor  # (C, D) gradient at theta* on the minibatch, or (C, 0)


class UBUState(MinibatchChain):
    """C chains.

    Attributes:
        anchor: theta*, `(C, D)`; `(C, 0)` unless used.
        anchor_sum: `(C, D)`, gradient of the log likelihood there on all data; `(C, 0)` without control variate.
    """

    def __init__(self, sampler: "UBU", target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        controlled = isinstance(sampler, SMSUBU) and sampler.control_variate
        anchored = controlled or (isinstance(sampler, SMSUBU) and sampler.localisation > 0)
        self.anchor = theta.clone() if anchored else theta[:, :0].clone()
        self.anchor_sum = torch.zeros_like(theta if controlled else theta[:, :0])
        self.work = _Buffers(FlowCoefficients.buffer(theta), torch.empty_like(self.anchor_sum))
        super().__init__(sampler, target, theta, seed, graph)


class UBU(MinibatchSampler):
    """Underdamped Langevin dynamics by the UBU splitting.

    Args:
        step_size: eps, in units of theta.
        friction: gamma, 1 / time; any positive value is stable.
        batch_size: B; 0 or None for the full data.
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        schedule: None keeps eps constant; the noise is off while a `CosineCyclical` explores.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, a negative batch size, or fewer than one step.
    """

    name = "ubu"
    coefficients_kind = FlowCoefficients
    always_tabulates = True  # an iteration's last step differs from the others

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        schedule: Schedule | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        super().__init__(step_size, batch_size, steps_per_iteration, schedule)
        self.friction, self.inverse_mass = positive("friction", friction), inverse_mass

    @property
    def bias_order(self) -> int:
        return 1 if self.batch_size else 2

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> UBUState:
        """Starts at `theta (C, D)`."""
        return UBUState(self, target, theta, seed, graph)

    def step(
        self, state: UBUState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[UBUState, Info]:
        """`steps_per_iteration` steps, each on a new minibatch (or all on `batch`)."""
        if state.steps.count == 0:
            state.refresh_momentum()
        return state, state.advance(batch)

    def coefficients(self, chain: UBUState, eps: Tensor, explores: Tensor) -> FlowCoefficients:
        """A kick for the step; U for half of it and half of the next, of which the last step has none."""
        following = torch.cat([eps[1:], torch.zeros_like(eps[:1])])
        return FlowCoefficients.of(eps, (eps + following) / 2, self.friction, explores)

    def begin(self, chain: UBUState, eps: Tensor, explores: Tensor) -> None:
        """The half U before the first gradient."""
        opening = chain.work.opening
        FlowCoefficients.of(0.0, eps[:1] / 2, self.friction, explores[:1]).write(opening, chain.target.temperature)
        self._flow(chain, None, opening, chain.first_counter(OPENING))

    def update(self, chain: UBUState) -> None:
        self._flow(chain, chain.grad, chain.coefficients, chain.counter(FLOW))

    def _flow(self, chain: UBUState, grad: Tensor | None, coefficients: Tensor, noise: Counter) -> None:
        theta, momentum, prior = chain.theta, chain.momentum, chain.target.prior
        ops.kick_flow(theta, momentum, grad, prior, coefficients, inverse_mass=self.inverse_mass, noise=noise)


class SMSUBU(UBU):
    """The UBU splitting on minibatches in symmetric sweeps.

    Args:
        step_size, friction, schedule, inverse_mass: as for `UBU`.
        batch_size: B; 0 or None for the full data, which is UBU.
        steps_per_iteration: steps per iteration; None: one sweep, 2 ceil(N / B).
        control_variate: correct a minibatch's gradient by the gradients where the chain began, on the same
            minibatch and on all data; a second gradient in every step.
        localisation: kappa, precision of a Gaussian factor around the start of the chain, which changes the
            posterior; 0: none.

    Raises:
        UserError: as for `UBU`, a negative localisation, or a control variate without minibatches.
    """

    name = "smsubu"
    symmetric = True

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        control_variate: bool = False,
        localisation: float = 0.0,
        schedule: Schedule | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        super().__init__(
            step_size,
            friction=friction,
            batch_size=batch_size,
            steps_per_iteration=steps_per_iteration,
            schedule=schedule,
            inverse_mass=inverse_mass,
        )
        if localisation:
            positive("localisation", localisation)
        if control_variate and self.batch_size is None:
            raise UserError("the control variate is for minibatches: set a batch size, or leave it out")
        self.control_variate, self.localisation = control_variate, localisation

    @property
    def bias_order(self) -> int:
        return 2

    @property
    def remark(self) -> str:
        """What differs from the posterior that was given."""
        if not self.localisation:
            return ""
        return (
            f"The posterior is localised: a Gaussian factor of precision {self.localisation:g} holds every "
            "parameter near the start of its chain."
        )

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> UBUState:
        """Starts at `theta (C, D)`, which is theta*."""
        state = UBUState(self, target, theta, seed, graph)
        if self.control_variate:
            state.evaluate()
            state.anchor_sum.copy_(state.grad)
        return state

    def gradients_per_iteration(self, target: Target) -> int:
        """`steps_per_iteration`, or one sweep of two epochs; full batch: one step."""
        if self.batch_size is None or self.steps_per_iteration:
            return super().gradients_per_iteration(target)
        return 2 * math.ceil(target.num_data / self.batch_size)

    def gradient(self, chain: UBUState, target: Target, log_lik: Tensor, batch: Tensor | Examples | None) -> None:
        super().gradient(chain, target, log_lik, batch)
        if self.control_variate:
            unused = torch.empty_like(log_lik)
            target.log_likelihood_and_grad(chain.anchor, chain.work.anchor_grad, unused, batch)

    def update(self, chain: UBUState) -> None:
        if self.control_variate:
            chain.grad.add_(chain.anchor_sum).sub_(chain.work.anchor_grad)
        if self.localisation:
            chain.grad.add_(chain.anchor - chain.theta, alpha=self.localisation)
        super().update(chain)
