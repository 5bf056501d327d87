"""Where chains begin: at draws from the prior, uniformly, at fresh networks, or at parameters given by the user."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..compute.random_streams import COMPONENT, FRESH, INITIAL, host_seed
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from .prior_table import sample

if TYPE_CHECKING:
    from .base import Target

__all__ = ["initial_rows", "reset"]


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
    raise UserError(f"init {shown} is unknown: use 'prior', 'uniform', 'model', 'fresh', 'train' or a tensor")


def reset(module: nn.Module, seed: int, chain: int) -> Mapping[str, Tensor]:
    """Initialises a module on the CPU anew, in place, by the `reset_parameters()` of its layers; returns its
    parameters. What no layer resets keeps its value.

    Raises:
        UserError: no layer has one, or one fails; names it.
    """
    found = False
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(host_seed(seed, FRESH, chain))
        for name, layer in reversed(list(module.named_modules())):  # inner layers first
            method = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if not callable(method) or not any(True for _ in layer.parameters()):
                continue
            found = True
            try:
                method()
            except Exception as error:  # of a user's layer
                raise UserError(
                    f"reset_parameters() of {name or 'the model'} failed ({type(error).__name__}: {error}): start "
                    "from 'model', 'prior' or a tensor (chains, parameters) instead"
                ) from error
    if not found:
        raise UserError(
            "no layer of the model has reset_parameters(), by which each chain would get a fresh network: start "
            "from 'model', 'prior' or a tensor (chains, parameters) instead"
        )
    return dict(module.named_parameters())
