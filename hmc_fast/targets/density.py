"""A bare log density as a target (see `base.py` for the interface)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arguments import positive, whole_number
from ..compute.device import resolve_device
from ..compute.gradient import GradientPass
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Segment
from .base import Target
from .examples import Examples

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Density"]


class Density(Target):
    """A bare log density `fn(theta: (D,)) -> scalar`, up to a constant, vectorised over chains.

    By default chains start uniformly in (-2, 2). The energy is a single number per chain in the given dtype: use
    float64 if log densities are large.

    Raises:
        UserError: a dimension under 1, a temperature that is not positive, or a function that does not
            return a scalar with a gradient.
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
        if not callable(fn):
            raise UserError(
                f"fn is a {type(fn).__name__}: give a function of theta (dim,) that returns the log density"
            )
        dim, device = whole_number("dim", dim), resolve_device(device)
        self.fn, self.num_params, self.num_data = fn, dim, 1
        self.prior = (Segment(0, dim, ops.FLAT),)
        self.temperature = positive("temperature", temperature)
        self.dtype, self.device = dtype, device
        with torch.enable_grad():
            value = fn(torch.zeros(dim, dtype=dtype, device=device, requires_grad=True))
        if not isinstance(value, Tensor) or value.shape != ():
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"the log density returned {got} for one point: it must return a scalar tensor")
        if not value.requires_grad:
            raise UserError(
                "the log density has no gradient: compute it from its argument with torch operations, and do not "
                "detach"
            )
        # The density poses as the log likelihood of one example, which `fn` ignores.
        datum = torch.zeros(1, device=device)
        self._datum = ((slice(0, 1), datum, datum),)
        self._gradient = GradientPass(self._log_prob, "vmap", micro_batch_size=1)

    def to(self, device: torch.device | str) -> "Self":
        """This density on another device: `fn` must follow its argument's device."""
        moved = type(self)(self.fn, self.num_params, temperature=self.temperature, dtype=self.dtype, device=device)
        moved.path = self.path
        return moved

    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | Examples | None = None
    ) -> None:
        self._gradient(theta, self._datum, grad, log_lik, compiled=self.compiles_gradient(len(theta), 1))

    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        self._gradient.log_likelihood(theta, self._datum, log_lik)

    def gradient_function(self) -> Callable[[Tensor], object]:
        gradient = self._gradient.functional(batched=False, shared=True, scale=1.0)
        return lambda row: gradient(row, *self._datum[0][1:])

    def _log_prob(self, row: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self.fn(row)[None]
