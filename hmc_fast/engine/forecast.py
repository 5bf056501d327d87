"""The memory, disk space and gradients that a run needs, computed before it starts. Where burn-in learns how many
gradients an iteration takes, they are told again."""

import os
import shutil
from pathlib import Path

from ..errors import UserError
from ..results.trace import Plan, Trace
from ..samplers.protocol import Sampler, State, buffers
from ..targets.base import Target

__all__ = ["LearnedWork", "check_disk", "expected_gradients", "forecast", "human"]


def human(count: float) -> str:
    """Bytes in binary units: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


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


def expected_gradients(sampler: Sampler, target: Target, plan: Plan) -> tuple[int, tuple[str, ...]]:
    """Gradients of a chain in the whole run, and what to print if that is a guess."""
    iterations = plan.kept_iterations(sampler)[-1] + 1
    if not hasattr(sampler, "forecast"):
        return iterations * sampler.gradients_per_iteration(target), ()
    expected, most = sampler.forecast(plan.burn_in, iterations)
    if expected == most:
        return expected, ()
    return expected, (
        f"trajectory lengths are learned in burn-in: about {expected:,} gradients of each chain, at most {most:,}; "
        "told again as they are learned",
    )


class LearnedWork:
    """Tells how many gradients are left, when burn-in has learned it and again whenever that doubles or halves."""

    def __init__(self) -> None:
        self._told = 0

    def news(self, state: State, iterations_left: int, recent: Trace) -> str | None:
        """A line to print, or None. recent: iterations, for the time of a gradient."""
        learned = getattr(state, "learned_gradients", None)
        if learned is None or self._told / 2 < learned < self._told * 2:
            return None
        self._told, left = learned, iterations_left * learned
        seconds = left * recent.seconds[:, 0].sum() / recent.leapfrog_steps[:, 0].sum()
        return (
            f"trajectories of {learned:,} leapfrog steps, as learned so far: about {left:,} gradients of each "
            f"chain are left, {seconds:.3g} s"
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
