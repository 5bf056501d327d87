"""Where chains begin: at draws from the prior, uniformly, or at parameters that the user gives."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..compute.random_streams import COMPONENT, INITIAL
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from .prior_table import sample

if TYPE_CHECKING:
    from .base import Target

__all__ = ["initial_rows"]


def initial_rows(target: "Target", init: Any, num_chains: int, seed: int) -> Tensor:
    """`(C, D)`; see `Target.initial`."""
    if isinstance(init, np.ndarray):
        init = torch.from_numpy(init)
    if isinstance(init, Tensor):
        if init.shape not in ((target.num_params,), (num_chains, target.num_params)):
            raise UserError(
                f"init has shape {tuple(init.shape)}: it must be ({target.num_params},) or "
                f"({num_chains}, {target.num_params}), i.e. (parameters,) or (chains, parameters)"
            )
        if not bool(torch.isfinite(init).all()):
            raise UserError("init contains NaN or infinite values: chains must start at finite parameters")
        rows = init.to(target.device, target.dtype)
        return rows.expand(num_chains, target.num_params).clone()
    if isinstance(init, str) and init == "default":
        init = target.default_init
    if isinstance(init, str) and init in ("prior", "uniform"):
        step = torch.zeros(1, dtype=torch.int64)
        uniform = ops.uniforms(Counter(seed, INITIAL, step), num_chains, target.num_params)
        if init == "uniform":
            return (4 * uniform - 2).to(target.device, target.dtype)
        second = ops.uniforms(Counter(seed, COMPONENT, step), num_chains, target.num_params)
        rows = sample(target.prior, uniform, second, flat=0.0 if target.prior_density else None)
        if target.prior_density is not None:
            target.prior_density.fill(rows, seed)
        return rows.to(target.device, target.dtype)
    shown = repr(init) if isinstance(init, str) else f"({type(init).__name__})"
    raise UserError(f"init {shown} is unknown: use 'prior', 'uniform', 'model' or a tensor")
