"""Whether a model and a likelihood are a density: the same value every time, one example's from itself alone."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..compute.batches import Inputs, rows
from ..compute.precision import arithmetic
from ..errors import UserError
from .flat_module import FlatModel
from .likelihoods import Categorical, Likelihood

__all__ = ["check_density", "generators_kept"]

_ROWS = 3
# Relative to the largest output. The same pass twice has the same bits on a CPU; a GPU may add in another order.
# Kernels for one example round differently from those for several.
_SAME, _ALONE, _ALONE_IN_HALF_PRECISION = 1e-6, 1e-3, 5e-2


def check_density(flat: FlatModel, likelihood: Likelihood, x: Inputs, y: Tensor) -> None:
    """Evaluates a few examples together, again, and one of them alone, at parameters away from the initial ones,
    where a layer that starts at 0 would hide the others.

    Raises:
        UserError: a value that is random, that depends on earlier calls or on other examples; names the module.
    """
    x, y = rows(x, slice(_ROWS)), y[:_ROWS]
    first = rows(x, slice(1))
    noise = torch.randn(flat.num_params, generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
    row = flat.initial + 0.1 * noise.to(flat.device)
    with torch.no_grad(), arithmetic("fp32", flat.device):
        before = {name: buffer.clone() for name, buffer in flat.module.named_buffers()}
        together = flat(row, x)
        if not bool(torch.isfinite(together).all()):
            row = flat.initial
            together = flat(row, x)
        _refuse_written_buffers(flat, before)
        if _differ(together, flat(row, x), _SAME):
            raise UserError(
                f"{_where(flat, row, x, x)} gives other outputs for the same inputs: it draws random numbers or "
                "keeps a state, so the posterior has no fixed density: call model.eval(), or take it out (a "
                "functional dropout needs training=self.training)"
            )
        if isinstance(likelihood, Categorical):
            _warn_of_probabilities(together)
        if len(y) == 1:
            return
        alone = flat(row, first)
        if len(together) != len(y) or _differ(together[:1], alone, _tolerance(flat)):
            raise UserError(
                f"{_where(flat, row, x, first)} makes the output for one example depend on the others in its "
                "batch, so the likelihood is no product over examples: normalise within each example (such as "
                "x.mean(-1, keepdim=True)) or by constants"
            )
        value, single = likelihood.log_prob(together, y), likelihood.log_prob(alone, y[:1])
        if value.shape != (len(y),) or _differ(value[:1], single, _tolerance(flat)):
            raise UserError(
                f"the likelihood's value for one example depends on the others in its batch: outputs of shape "
                f"{tuple(together.shape)} and y of shape {tuple(y.shape)} broadcast: give both the same shape, for "
                "example outputs.squeeze(-1)"
            )


def _warn_of_probabilities(outputs: Tensor) -> None:
    """Of outputs that are probabilities already, softmax makes nearly uniform ones."""
    sums = outputs.detach().sum(-1)
    if (
        outputs.shape[-1] > 1
        and bool((outputs >= 0).all())
        and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    ):
        warnings.warn(
            "the model's outputs are probabilities (not negative, with sum 1), but the categorical likelihood "
            "takes logits: remove the model's softmax",
            stacklevel=4,
        )


def _refuse_written_buffers(flat: FlatModel, before: dict[str, Tensor]) -> None:
    for name, buffer in flat.module.named_buffers():
        if name in before and buffer.shape == before[name].shape and not torch.equal(buffer, before[name]):
            raise UserError(
                f"the model's buffer {name!r} changes with every call, so the posterior has no fixed density: call "
                "model.eval(), or take out what writes to it"
            )


def _tolerance(flat: FlatModel) -> float:
    """Wider if a part of the model is kept in half precision."""
    tensors = [*flat.module.parameters(), *flat.module.buffers()]
    return _ALONE_IN_HALF_PRECISION if any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors) else _ALONE


def _differ(first: Tensor, second: Tensor, tolerance: float) -> bool:
    if first.shape != second.shape:
        return True
    scale = float(first.abs().nan_to_num(nan=0, posinf=0).max())
    return not torch.allclose(first, second, rtol=0, atol=tolerance * scale, equal_nan=True)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Torch's generators, from which a model draws if it is random, are left as found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


# --- which module it is ---


def _where(flat: FlatModel, row: Tensor, first: Inputs, second: Inputs) -> str:
    """The innermost module that gives an example other outputs for equal inputs, in two passes."""
    for (name, given, result), (_, other_given, other) in zip(
        _calls(flat, row, first), _calls(flat, row, second), strict=False
    ):
        if _equal(given, other_given) and not _equal(result, other):
            return name
    return f"the model ({type(flat.module).__name__})"


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """At the examples of both passes."""
    return len(first) == len(second) and not any(
        _differ(a[: len(b)], b[: len(a)], _ALONE) for a, b in zip(first, second, strict=True)
    )


def _calls(flat: FlatModel, row: Tensor, x: Inputs) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """Every call of a module, innermost first: its name, and the tensors that it was given and that it returned."""
    found: list[tuple[str, list[Tensor], list[Tensor]]] = []
    hooks = []
    for name, module in flat.module.named_modules():

        def note(module: Any, given: Any, options: Any, result: Any, name: str = name) -> None:
            found.append(
                (
                    f"{type(module).__name__} at {name or 'the top level'!r}",
                    _tensors((given, options)),
                    _tensors(result),
                )
            )

        hooks.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        flat(row, x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _tensors(tree: Any) -> list[Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.ndim > 0]
    return [leaf.detach().clone().to(torch.float64) for leaf in leaves]
