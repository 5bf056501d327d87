"""The interface of a target distribution: a density over rows of a flat buffer.

    U(w) = -[ sum_i log p(y_i | x_i, w) + log p(w) ] / T

Log densities are *sums* over the data, never means. A target computes the gradient of the likelihood by autograd.
The kernels add the gradient of the prior in the pass that updates the momentum, so a target provides its prior as a
table.
"""

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ..compute.gradient import ChainBatching
from ..compute.program import Path
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Segment
from .examples import Examples
from .fingerprint import digest
from .initial_states import initial_rows
from .likelihoods import Task
from .prior_density import PriorDensity

if TYPE_CHECKING:
    from typing_extensions import Self

    from .streaming import Stream

__all__ = ["Target"]


class Target(ABC):
    """A density over rows of a flat buffer.

    Attributes:
        num_params: D. num_data: N, the number of terms in the log likelihood (1 for a bare density).
        prior: segment table covering 0..D. prior_density: the part of the prior that is no family of the kernels,
            flat in that table; its gradient is part of `log_likelihood_and_grad`. temperature: T.
        exact_gradient_pass: whether the pass that yields the gradient also yields exact log likelihoods.
        path: how gradients and the updates around them run on a CPU (`compute/program.py`); on a GPU "compiled" and
            "loop" both compile the gradient.
        kernels: of a run: "auto" by Triton (on a CUDA device), "torch" by torch.
        chain_batching: how the gradient covers all chains (`compute/gradient.py`); None if there is only one way.
        vmap_refusal: why "vmap" cannot batch this model, or None.
        micro_batch_size: examples per forward and backward pass.
        stream: of the data, or None if they are in memory. A gradient of streamed data waits for the host, so
            nothing around it can be recorded.
        default_init: what "default" means to `initial`. default_draw_dtype: of stored
            draws; None: half precision where burn-in shows that it holds them.
    """

    num_params: int
    num_data: int
    prior: tuple[Segment, ...]
    prior_density: PriorDensity | None = None
    prior_in_words: str = "none"
    temperature: float
    dtype: torch.dtype
    device: torch.device
    exact_gradient_pass: bool = True
    path: Path = "eager"
    kernels: ops.Kernels = "auto"
    chain_batching: ChainBatching | None = None
    vmap_refusal: str | None = None
    micro_batch_size: int = sys.maxsize
    stream: "Stream | None" = None
    default_init: str = "prior"
    default_draw_dtype: torch.dtype | None = None

    # --- the density ---

    @abstractmethod
    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | Examples | None = None
    ) -> None:
        """Writes the gradient of the log likelihood, and the log likelihood of each example.

        Args:
            theta: `(C, D)`. grad: `(C, D)`, overwritten with the gradient of the sum over all N examples,
                or of N/B times the sum over a batch; plus, once, that of `prior_density`.
            log_lik: `(C, N)` or `(C, B)`, overwritten, never scaled.
            indices: `(C, B)` int64 rows of the data for each chain, or B examples of `examples`; None: all data.
        """

    @abstractmethod
    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        """Writes the exact log likelihood of each example, `(C, N)`, without a gradient."""

    def log_prior(self, theta: Tensor) -> Tensor:
        """Log prior density, float64 `(C,)`."""
        value = ops.log_prior(theta, self.prior)
        return value if self.prior_density is None else value + self.prior_density.log_prob(theta)

    def prior_difference(self, theta: Tensor, new_theta: Tensor) -> Tensor:
        """log p(new_theta) - log p(theta) of the prior, float64 `(C,)`."""
        value = ops.prior_difference(theta, new_theta, self.prior)
        return value if self.prior_density is None else value + self.prior_density.difference(theta, new_theta)

    def energy_difference(
        self, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], *, inverse_mass: Tensor | None = None
    ) -> Tensor:
        """Kinetic and prior terms of H(end) - H(start), float64 `(C,)`; theta and momentum, `(C, D)` each."""
        beta = 1 / self.temperature
        value = ops.energy_difference(*start, *end, self.prior, beta, inverse_mass=inverse_mass)
        if self.prior_density is None:
            return value
        return value - beta * self.prior_density.difference(start[0], end[0])

    def potential_and_grad(self, theta: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """U, float64 `(C,)`, and its gradient `(C, D)`, prior and temperature included."""
        count = self.num_data if indices is None else indices.shape[1]
        log_lik = theta.new_empty(theta.shape[0], count)
        grad = torch.empty_like(theta)
        self.log_likelihood_and_grad(theta, grad, log_lik, indices)
        log_density = log_lik.double().sum(1) * (self.num_data / count) + self.log_prior(theta)
        force = torch.empty_like(theta)
        self.force(theta, grad, force)
        return -log_density / self.temperature, -force

    def force(self, theta: Tensor, grad: Tensor, out: Tensor) -> None:
        """Writes the gradient of log density over T, prior included, to `out (C, D)`.

        grad: `(C, D)`, gradient of the log likelihood at `theta (C, D)`.
        """
        ops.force(out, grad, theta, self.prior, 1 / self.temperature)

    # --- how it is computed ---

    @abstractmethod
    def to(self, device: torch.device | str) -> "Self":
        """This target on another device; the same object if it is already there."""

    def prepared(self, *, path: Path, chain_batching: ChainBatching | None = None) -> "Self":
        """This target with another path and its chains batched as given (None: unchanged); all else is shared.

        Raises:
            UserError: this target does not support that batching.
        """
        if chain_batching is not None:
            raise UserError(f"chain_batching {chain_batching!r} must be None for a {type(self).__name__}")
        other = copy.copy(self)
        other.path = path
        return other

    def with_kernels(self, kernels: ops.Kernels) -> "Self":
        """This target with its updates by Triton kernels ("auto", on a CUDA device) or by torch."""
        other = copy.copy(self)
        other.kernels = kernels if self.device.type == "cuda" else "torch"
        return other

    def chain_batchings(self) -> tuple[ChainBatching, ...]:
        """The ways to batch chains among which the fastest may be chosen; fewer than two leave no choice."""
        return ()

    def architecture(self) -> tuple[Any, ...] | None:
        """Identifies targets whose gradients take the same time, given equal numbers of chains and examples. None
        if unknown, in which case measurements cannot be reused."""
        return None

    def first_examples(self, count: int) -> "Self":
        """This target on its first `count` examples, at most `micro_batch_size`, for timing one pass. A target that
        always uses a single pass returns itself."""
        return self

    def example_row(self) -> Tensor:
        """Example parameters at which the target can be evaluated, `(1, D)`."""
        return torch.zeros(1, self.num_params, dtype=self.dtype, device=self.device)

    @abstractmethod
    def gradient_function(self) -> Callable[[Tensor], object]:
        """The function that `torch.compile` must be able to trace: the gradient at a row `(D,)` on one example."""

    def single_pass(self, num_chains: int, count: int) -> bool:
        """Whether the gradient on `count` examples is one pass, which can be compiled as part of a larger function;
        otherwise it compiles its own passes."""
        return True

    @property
    def compiled(self) -> bool:
        """Whether anything is compiled."""
        return self.path in ("compiled", "loop")

    def compiles_gradient(self, num_chains: int, count: int) -> bool:
        """Whether a gradient on `count` examples is compiled by itself, rather than within a larger function."""
        alone = self.device.type != "cpu" or not self.single_pass(num_chains, count)
        return self.path == "compiled" or (self.path == "loop" and alone)

    def on_minibatches(self, num_chains: int, batch_size: int) -> "tuple[Self, list[Tensor]]":
        """This target with buffers for the minibatch of every chain in place of its streamed data: whatever rows
        `(C, B)` it is given, its gradient is that on the buffers. And the buffers, `(C, B, ...)`, y last."""
        raise NotImplementedError(f"a {type(self).__name__} has no streamed data")

    @property
    def nbytes(self) -> int:
        """Bytes of data on its device."""
        return 0

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the density and its rounding, except functions, as JSON values."""
        table = [[digest(v) if isinstance(v, Tensor) else v for v in vars(s).values()] for s in self.prior]
        return {
            "prior": self.prior_in_words,
            "prior table": table,
            "temperature": self.temperature,
            "path": self.path,
            "chain_batching": self.chain_batching,
            "kernels": self.kernels,
        }

    def examples(self, x: Any, y: Any) -> Examples:
        """A batch of a user's own, B examples for all chains, as `log_likelihood_and_grad` takes it.

        Raises:
            UserError: examples that differ in kind or shape from the data, or in number from each other.
        """
        raise UserError(f"a bare {type(self).__name__} has no examples: leave batch out")

    # --- predictions: only a model's posterior has them ---

    @property
    def task(self) -> Task:
        """The kind of prediction: class probabilities, mean and variance, or raw outputs."""
        self._predicts_nothing()

    @property
    def predicts_softmax(self) -> bool:
        """Whether predictions are the softmax of `logits`."""
        return False

    def inputs(self, x: Any) -> Any:
        """Inputs `(T, ...)` on the target's device and in its dtype.

        Raises:
            UserError: the examples differ in shape from the training data.
        """
        self._predicts_nothing()

    def labels(self, y: Any, num_inputs: int) -> Tensor:
        """Labels `(T,)` on the target's device, as its likelihood takes them.

        Raises:
            UserError: their number or kind does not fit.
        """
        self._predicts_nothing()

    def outputs(self, theta: Tensor, x: Any) -> Tensor:
        """Model outputs `(C, B, ...)` of every chain at the inputs `x (B, ...)`, in full precision."""
        self._predicts_nothing()

    def logits(self, theta: Tensor, x: Any) -> Tensor:
        """Model outputs `(C, T, K)` of every chain, computed in micro-batches."""
        self._predicts_nothing()

    def predict(self, theta: Tensor, x: Any, *, batch_size: int | None = None) -> Tensor:
        """Predictions `(C, T, K)` of every chain, from the likelihood's `predict`.

        batch_size: inputs per pass; None: `micro_batch_size`.
        """
        self._predicts_nothing()

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which a row stores them."""
        return {"theta": (self.num_params,)}

    def _predicts_nothing(self) -> NoReturn:
        raise UserError(
            f"a bare {type(self).__name__} has no predictions: leave test out, or build a Posterior from a model"
        )

    # --- initial states ---

    def initial(self, init: Any, num_chains: int, seed: int) -> Tensor:
        """Initial states, `(C, D)`: "prior" draws, "uniform" in (-2, 2) as in Stan, "model" (the module's own
        values for every chain), "fresh" (each chain its own, by the layers' `reset_parameters()`), a tensor `(D,)`
        or `(C, D)`, or a module's `state_dict()`. "default" is "prior", or "model" where part of the prior is a
        function, or "uniform" for a bare density, which has no prior.

        Raises:
            UserError: an unknown name, a wrong shape, or values that are not finite.
        """
        return initial_rows(self, init, num_chains, seed)
