"""The memory and disk space that a run needs, computed before it starts."""

import os
import shutil
from pathlib import Path

from ..compute.device import human
from ..errors import UserError
from ..samplers.protocol import State, buffers
from ..targets.base import Target

__all__ = ["check_disk", "forecast"]


def forecast(
    target: Target, state: State, average_bytes: int, *, draws: int, capacity: int, draw_bytes: int, on_disk: bool
) -> str:
    """One line on the memory allocated for the whole run; activations, bounded by `micro_batch_size`, are extra.

    draw_bytes: of one draw of all chains.
    """
    chains, ring = sum(tensor.nbytes for tensor in buffers(state)), capacity * draw_bytes
    parts = [
        f"chains {human(chains)}",
        f"ring of {capacity} draws {human(ring)}",
        f"data {human(target.nbytes)}",
        f"averages {human(average_bytes)}",
    ]
    where = "on disk" if on_disk else "in host memory"
    total = chains + ring + target.nbytes + average_bytes
    return (
        f"memory on {target.device}: {human(total)} ({', '.join(parts)}) and activations; "
        f"all draws {where}: {human(draws * draw_bytes)}"
    )


def check_disk(path: Path, needed: int) -> None:
    """Raises UserError if the draws do not fit on the disk of `path` (of its nearest existing parent)."""
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise UserError(f"{path} cannot be written: choose another directory with --out")
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise UserError(
            f"the draws need {human(needed)}, but {parent} has {human(free)} free: use fewer draws or chains, or "
            "another directory"
        )
