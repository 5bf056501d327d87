"""What is sampled, as samplers see it: a density over rows of a flat buffer.

    U(w) = -[ sum_i log p(y_i | x_i, w) + log p(w) ] / T

Log densities rise uphill and are *sums* over the data, never means. A target computes the likelihood's
gradient, by autograd; the prior's is added by the kernels in the pass that updates the momentum, which is why
a target hands out the prior as a table.
"""

import copy
import hashlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ..compute.gradient import ChainBatching
from ..compute.random_streams import COMPONENT, INITIAL
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter, Segment
from . import priors
from .likelihoods import Task

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Target", "digest", "positive"]


class Target(ABC):
    """A density over rows of a flat buffer, as samplers see it.

    Attributes:
        num_params: D. num_data: N, terms that the log likelihood sums (1 for a bare density).
        prior: segment table covering 0..D. temperature: T.
        exact_gradient_pass: whether the pass that yields the gradient also yields exact log likelihoods.
        compiled: whether gradients go through `torch.compile`; see `prepared`.
        chain_batching: how the gradient covers all chains (`compute/gradient.py`); None if there is one way.
        vmap_refusal: why "vmap" cannot batch this model, or None.
        micro_batch_size: examples per forward and backward pass.
        default_init: what `initial` takes "default" for. default_draw_dtype: of stored draws.
    """

    num_params: int
    num_data: int
    prior: tuple[Segment, ...]
    temperature: float
    dtype: torch.dtype
    device: torch.device
    exact_gradient_pass: bool = True
    compiled: bool = False
    chain_batching: ChainBatching | None = None
    vmap_refusal: str | None = None
    micro_batch_size: int = sys.maxsize
    default_init: str = "prior"
    default_draw_dtype: torch.dtype = torch.float16

    # --- the density ---

    @abstractmethod
    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | None = None
    ) -> None:
        """Writes the log likelihood's gradient and the log likelihood of each example.

        Args:
            theta: `(C, D)`. grad: `(C, D)`, overwritten with the gradient of the sum over all N examples,
                or of N/B times the sum over a batch.
            log_lik: `(C, N)` or `(C, B)`, overwritten, never scaled.
            indices: `(C, B)` int64 rows of the data for each chain; None is the full data.
        """

    @abstractmethod
    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        """Writes the exact log likelihood of each example, `(C, N)`; no gradient."""

    def log_prior(self, theta: Tensor) -> Tensor:
        """Log prior density, float64 `(C,)`."""
        return ops.log_prior(theta, self.prior)

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
        """Writes the gradient of log density over T, prior included: `out (C, D)`, from the log likelihood's
        gradient `grad (C, D)` at `theta (C, D)`."""
        ops.force(out, grad, theta, self.prior, 1 / self.temperature)

    # --- how it is computed ---

    @abstractmethod
    def to(self, device: torch.device | str) -> "Self":
        """This target on another device; itself if it is there already."""

    def prepared(self, *, compiled: bool, chain_batching: ChainBatching | None = None) -> "Self":
        """This target with its gradient compiled or not, and chains batched another way (None: as now); shares
        all else.

        Raises:
            UserError: a way to batch chains that this target does not have.
        """
        if chain_batching is not None:
            raise UserError(
                f"chain_batching {chain_batching!r}: a {type(self).__name__} has only one way, leave it out"
            )
        other = copy.copy(self)
        other.compiled = compiled
        return other

    def chain_batchings(self) -> tuple[ChainBatching, ...]:
        """The ways to batch chains from which the fastest may be chosen; empty if the choice is made."""
        return ()

    def architecture(self) -> tuple[Any, ...] | None:
        """What the time of a gradient depends on besides the numbers of chains and examples, so that a measurement
        can be reused; None if that is unknown."""
        return None

    def first_examples(self, count: int) -> "Self":
        """This target on its first `count` examples, at most `micro_batch_size`: one pass of its gradient, to be
        counted or timed. A target that never splits its data returns itself."""
        return self

    def example_row(self) -> Tensor:
        """Parameters at which the target can be evaluated, `(1, D)`."""
        return torch.zeros(1, self.num_params, dtype=self.dtype, device=self.device)

    @abstractmethod
    def gradient_function(self) -> Callable[[Tensor], object]:
        """What `torch.compile` must be able to trace: the gradient at one row `(D,)`, on one example."""

    def single_pass(self, num_chains: int, count: int) -> bool:
        """Whether the gradient on `count` examples is one pass that a compiled unit may contain; else it
        compiles its own passes."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of the data that it holds on its device."""
        return 0

    def fingerprint(self) -> dict[str, Any]:
        """What determines the density and its rounding, as values that JSON can hold: a run may be resumed only on
        a target with the same fingerprint."""
        scales = [digest(s.scale) if isinstance(s.scale, Tensor) else repr(s.scale) for s in self.prior]
        return {
            "temperature": self.temperature,
            "compiled": self.compiled,
            "chain_batching": self.chain_batching,
            "prior": [(s.start, s.stop, s.family, s.shape, v) for s, v in zip(self.prior, scales, strict=True)],
        }

    # --- what it predicts: nothing, unless it is a model's posterior ---

    @property
    def task(self) -> Task:
        """What `predict` returns: class probabilities, mean and variance, or raw outputs."""
        self._predicts_nothing()

    @property
    def predicts_softmax(self) -> bool:
        """Whether predictions are the softmax of `logits`."""
        return False

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs `(T, ...)` on the target's device and in its dtype.

        Raises:
            UserError: examples that differ in shape from those of the data.
        """
        self._predicts_nothing()

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """Model outputs `(C, B, ...)` of every chain at the inputs `x (B, ...)`; exact arithmetic."""
        self._predicts_nothing()

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Model outputs `(C, T, K)` of every chain, computed in micro-batches."""
        self._predicts_nothing()

    def predict(self, theta: Tensor, x: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Predictions `(C, T, K)` of every chain: what the likelihood makes of the outputs.

        batch_size: inputs per pass; None: `micro_batch_size`.
        """
        self._predicts_nothing()

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order of a row."""
        return {"theta": (self.num_params,)}

    def _predicts_nothing(self) -> NoReturn:
        raise UserError(
            f"a bare {type(self).__name__} predicts nothing: leave test out, or build a Posterior from a model"
        )

    # --- where chains begin ---

    def initial(self, init: "str | Tensor", num_chains: int, seed: int) -> Tensor:
        """Where the chains begin, `(C, D)`: "prior" draws, "uniform" in (-2, 2) as in Stan, "model" (the
        module's own values for every chain), or a tensor `(D,)` or `(C, D)`. "default" is "prior", or "uniform"
        for a bare density, which has none.

        Raises:
            UserError: an unknown name, a wrong shape, or values that are not finite.
        """
        if isinstance(init, Tensor):
            if init.shape not in ((self.num_params,), (num_chains, self.num_params)):
                raise UserError(
                    f"init has shape {tuple(init.shape)}: it must be ({self.num_params},) or "
                    f"({num_chains}, {self.num_params}), that is (parameters,) or (chains, parameters)"
                )
            if not bool(torch.isfinite(init).all()):
                raise UserError("init holds NaN or infinite values: chains must begin at finite parameters")
            rows = init.to(self.device, self.dtype)
            return rows.expand(num_chains, self.num_params).clone()
        if init == "default":
            init = self.default_init
        if init in ("prior", "uniform"):
            step = torch.zeros(1, dtype=torch.int64)
            uniform = ops.uniforms(Counter(seed, INITIAL, step), num_chains, self.num_params)
            if init == "uniform":
                return (4 * uniform - 2).to(self.device, self.dtype)
            second = ops.uniforms(Counter(seed, COMPONENT, step), num_chains, self.num_params)
            return priors.sample(self.prior, uniform, second).to(self.device, self.dtype)
        raise UserError(f"init {init!r} is unknown: use 'prior', 'uniform', 'model' or a tensor")


def digest(tensor: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the tensor's values."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def positive(name: str, value: float) -> float:
    """The value itself, if it is positive and finite; else UserError."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} {value} must be a positive number")
    return value
