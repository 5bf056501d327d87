"""How a run's draws are stored: dtype, sizes, and the ring's capacity."""

import dataclasses

import torch

from ..compute.device import free_memory, human
from ..errors import UserError
from ..results.draw_store import bytes_per_draw, parse_capacity
from ..results.trace import Plan
from ..targets.base import Target
from .checkpoint import Checkpoint

__all__ = ["Storage", "storage_of"]


@dataclasses.dataclass(frozen=True)
class Storage:
    """How draws of `shape (C, D)` are stored. dtype: None until burn-in has shown which."""

    dtype: torch.dtype | None
    shape: tuple[int, int]
    wanted: "int | str | None"  # capacity of the ring, in the user's words
    draws: int

    def draw_bytes(self, dtype: torch.dtype | None) -> int:
        """Of one draw of all chains; half precision while it is not known."""
        return bytes_per_draw(*self.shape, dtype or torch.float16)

    def capacity(self, dtype: torch.dtype | None) -> int:
        return parse_capacity(self.wanted, self.draw_bytes(dtype), self.draws)


def storage_of(
    target: Target,
    plan: Plan,
    chains: int,
    draw_dtype: "torch.dtype | str",
    capacity: "int | str | None",
    saved: Checkpoint | None,
) -> Storage:
    """Raises UserError for an unknown dtype, or a capacity that is less than one draw or more than there is."""
    if draw_dtype == "auto":
        dtype = target.default_draw_dtype
        if saved is not None and saved.numbers.get("draw_bytes"):  # older checkpoints lack it
            dtype = torch.float16 if saved.numbers["draw_bytes"] == 2 else target.dtype
    elif isinstance(draw_dtype, torch.dtype):
        dtype = draw_dtype
    else:
        raise UserError(f"draw_dtype {draw_dtype!r} is unknown: use 'auto', torch.float16, float32 or float64")
    storage = Storage(dtype, (chains, target.num_params), capacity, plan.draws)
    ring = storage.capacity(dtype or target.dtype) * storage.draw_bytes(dtype or target.dtype)
    if ring > (free := free_memory(target.device)):
        raise UserError(
            f"capacity {capacity!r} takes {human(ring)} on {target.device}, which has {human(free)} free: give less"
        )
    return storage
