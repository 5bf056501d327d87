"""The memory and disk space that a run needs, computed before it starts."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ..compute.device import human
from ..errors import UserError
from ..results.streamed_predictions import StreamedPredictions
from ..results.trace import TRACE_COLUMNS, Trace
from ..samplers.protocol import State, buffers, state_tensors
from ..targets.base import Target

__all__ = ["DiskUse", "check_disk", "disk_use", "forecast"]

_CSV_FIGURE = 18  # bytes of a number in trace.csv, with its comma
_PAGES = 2**24  # of figures and report


class DiskUse(NamedTuple):
    """Bytes of a run's folder."""

    draws: int  # `draws.npy`
    rows: int = 0  # the other files that grow: trace, curve and function values
    checkpoints: int = 0  # the newest, the one before, and the next while it is written
    report: int = 0  # trace.csv, predictions.npz, figures


def disk_use(state: State, trace: Trace, predictions: StreamedPredictions | None, draws: int) -> DiskUse:
    """Of a run whose draws take `draws` bytes."""
    rows, averages, tested = _trace_bytes(trace), 0, 0
    if predictions is not None:
        average = predictions.average
        rows += predictions.values.nbytes + average.curve.nbytes
        averages = predictions.nbytes - average.curve.nbytes + average.sums.nbytes // 2
        tested = average.sums.nbytes + average.second.nbytes + average.curve.nbytes
    checkpoint = averages + sum(tensor.nbytes for tensor in state_tensors(state).values())
    csv = (len(TRACE_COLUMNS) + 3) * _CSV_FIGURE * trace.log_prior.size
    return DiskUse(draws, rows, 3 * checkpoint, csv + tested + _PAGES)


def _trace_bytes(trace: Trace) -> int:
    return len(TRACE_COLUMNS) * trace.log_prior.nbytes


def forecast(
    target: Target,
    state: State,
    trace: Trace,
    predictions: StreamedPredictions | None,
    *,
    capacity: int,
    draw_bytes: int,
    all_draws: int,
    disk: DiskUse | None,
) -> str:
    """One line on the memory allocated for the whole run; activations, bounded by `micro_batch_size`, are extra.

    draw_bytes: of one draw of all chains. all_draws: of all, as stored. disk: None if all is kept in memory.
    """
    chains, ring = sum(tensor.nbytes for tensor in buffers(state)), capacity * draw_bytes
    averages = 0 if predictions is None else predictions.nbytes
    sizes = {
        "chains": chains,
        f"ring of {capacity} draws": ring,
        "data": target.nbytes,
        "averages": averages,
        "trace": _trace_bytes(trace),
    }
    if disk is None and predictions is not None:
        sizes["function values"] = predictions.values.nbytes
    parts = ", ".join(f"{name} {human(size)}" for name, size in sizes.items())
    place = f"in host memory: {human(all_draws)}"
    if disk is not None:
        place = f"on disk: {human(all_draws)}, and {human(sum(disk) - disk.draws)} for all else"
    return f"memory on {target.device}: {human(sum(sizes.values()))} ({parts}) and activations; all draws {place}"


def check_disk(path: Path, needed: DiskUse) -> None:
    """Raises UserError if the run does not fit on the disk of `path` (of its nearest existing parent)."""
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise UserError(f"{path} cannot be written: choose another directory with --out")
    free = shutil.disk_usage(parent).free
    if sum(needed) > free:
        raise UserError(
            f"the run needs {human(sum(needed))}, {human(needed.draws)} of them for draws, but {parent} has "
            f"{human(free)} free: use fewer draws or chains, or another directory"
        )
