"""What is sampled, as samplers see it: a density over rows of a flat buffer; and the simplest one.

    U(w) = -[ sum_i log p(y_i | x_i, w) + log p(w) ] / T

Log densities rise uphill and are *sums* over the data, never means. A target computes the likelihood's
gradient, by autograd; the prior's is added by the kernels in the pass that updates the momentum, which is why
a target hands out the prior as a table.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..compute.compilation import compile_function
from ..compute.random_streams import COMPONENT, INITIAL
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter, Segment
from . import priors

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Density", "Target", "positive"]


class Target(ABC):
    """A density over rows of a flat buffer, as samplers see it.

    Attributes:
        num_params: D. num_data: N, terms that the log likelihood sums (1 for a bare density).
        prior: segment table covering 0..D. temperature: T.
        exact_gradient_pass: whether the pass that yields the gradient also yields exact log likelihoods.
        compiled: whether gradients go through `torch.compile`; see `prepared`.
    """

    num_params: int
    num_data: int
    prior: tuple[Segment, ...]
    temperature: float
    dtype: torch.dtype
    device: torch.device
    exact_gradient_pass: bool = True
    compiled: bool = False

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

    def prepared(self, *, compiled: bool) -> "Self":
        """This target with its gradient compiled or not; shares all else."""
        other = copy.copy(self)
        other.compiled = compiled
        return other

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

    default_init = "prior"
    default_draw_dtype = torch.float16

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


class Density(Target):
    """A bare log density `fn(theta: (D,)) -> scalar`, up to a constant, vectorised over chains.

    Chains begin uniformly in (-2, 2) unless told otherwise. Its energy is one number per chain, exact to
    the dtype: use float64 where log densities are large.

    Raises:
        UserError: a dimension under 1, a temperature that is not positive, or a function that does not
            return a scalar.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        dim: int,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.default_init, self.default_draw_dtype = "uniform", dtype
        if dim < 1:
            raise UserError(f"dim {dim} must be at least 1")
        self.fn, self.num_params, self.num_data = fn, dim, 1
        self._functions: dict[torch.Size, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}
        self.prior = (Segment(0, dim, ops.FLAT),)
        self.temperature = positive("temperature", temperature)
        self.dtype, self.device = dtype, torch.device(device)
        value = fn(torch.zeros(dim, dtype=dtype, device=device))
        if not isinstance(value, Tensor) or value.shape != ():
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"the log density returned {got} for one point: it must return a scalar tensor")

    def to(self, device: torch.device | str) -> "Density":
        """This density on another device: `fn` must follow its argument's device."""
        return Density(self.fn, self.num_params, temperature=self.temperature, dtype=self.dtype, device=device)

    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | None = None
    ) -> None:
        function = torch.func.vmap(torch.func.grad_and_value(self.fn))
        if self.compiled and not torch.compiler.is_compiling():
            if theta.shape not in self._functions:
                self._functions[theta.shape] = compile_function(function, cpu=not theta.is_cuda)
            function = self._functions[theta.shape]
        gradient, value = function(theta)
        grad.copy_(gradient)
        log_lik[:, 0] = value

    def gradient_function(self) -> Callable[[Tensor], object]:
        return torch.func.grad_and_value(self.fn)

    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        log_lik[:, 0] = torch.func.vmap(self.fn)(theta)


def positive(name: str, value: float) -> float:
    """The value itself, if it is positive and finite; else UserError."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} {value} must be a positive number")
    return value
