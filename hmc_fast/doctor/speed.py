"""How close to the GPU's limits the fused update and a trajectory come."""

import statistics
from collections.abc import Callable

import torch
from torch import nn

from ..kernels import ops
from ..samplers import HMC
from ..targets.posterior import Posterior
from .findings import Result

__all__ = ["bandwidth", "busy_share"]

_ELEMENTS = 2**26  # 256 MiB a buffer, beyond every cache
_IMAGES, _WIDTH, _NUM_LEAPFROG = 4096, 256, 50  # of the trajectory that is timed
# Reached on an H100: 3.0 TB/s against 2.4 TB/s of a copy.
_LEAST_SHARE_OF_COPY = 0.7
_LEAST_BUSY = 0.8


def _milliseconds(call: Callable[[], object], repeats: int = 10) -> float:
    """Median on the device."""
    call()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in marks:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks)


def bandwidth(device: torch.device) -> Result:
    """Bytes a second of `kick_drift` (three buffers read, two written) beside a copy's."""
    with torch.cuda.device(device):
        theta, momentum, grad = (torch.ones(1, _ELEMENTS, device=device) for _ in range(3))
        coefficients = torch.full((1, 4), 1e-3, dtype=torch.float64, device=device)
        prior = (ops.Segment(0, _ELEMENTS, ops.NORMAL, 1.0),)
        update = _milliseconds(lambda: ops.kick_drift(theta, momentum, grad, prior, coefficients))
        copy = _milliseconds(lambda: momentum.copy_(grad))
    rate, copied = (count * 4 * _ELEMENTS / time / 1e9 for count, time in ((5, update), (2, copy)))
    enough = rate >= _LEAST_SHARE_OF_COPY * copied
    return Result("ok" if enough else "slow", f"{rate:.2f} TB/s, a copy {copied:.2f} TB/s")


def busy_share(device: torch.device) -> Result:
    """Of a captured trajectory's time, that during which a kernel runs."""
    with torch.cuda.device(device):
        network = nn.Sequential(nn.Linear(784, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, 10))
        images = torch.rand(_IMAGES, 784), torch.arange(_IMAGES) % 10
        posterior = Posterior(network, images, device=device)
        sampler = HMC(1e-4, num_leapfrog=_NUM_LEAPFROG)
        state = sampler.init(posterior, posterior.initial("model", 1, 0), seed=0, graph="auto")
        sampler.step(state)
        wall = _milliseconds(lambda: sampler.step(state), repeats=5)
        both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=both, acc_events=True) as profile:
            sampler.step(state)
            torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e3 / wall
    return Result(
        "ok" if busy >= _LEAST_BUSY else "slow", f"busy {busy:.0%} of {wall / _NUM_LEAPFROG:.3f} ms a leapfrog step"
    )
