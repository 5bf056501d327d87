"""A bare log density as a target (`base.py` says what a target is)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..compute.compilation import compile_function
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Segment
from .base import Target, positive

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Density"]


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

    def to(self, device: torch.device | str) -> "Self":
        """This density on another device: `fn` must follow its argument's device."""
        moved = type(self)(self.fn, self.num_params, temperature=self.temperature, dtype=self.dtype, device=device)
        moved.compiled = self.compiled
        return moved

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
