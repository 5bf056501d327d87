"""Short chains on a small network: every way to compute gives the same chain, and so does resuming it."""

from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
from torch import Tensor, nn

from ..compute.native.library import NoCompiler, find_compiler
from ..compute.program import Path
from ..dynamics.gradient_step import Graph
from ..samplers import (
    AMAGOLD,
    GHMC,
    HMC,
    MCLMC,
    PSGLD,
    SGHMC,
    SGLD,
    SGNHT,
    SMSUBU,
    UBU,
    AdjustedMCLMC,
    Sampler,
    SplitHMC,
    UnderdampedLangevin,
)
from ..samplers.protocol import restore, state_tensors
from ..targets.posterior import Posterior
from ..targets.priors import Normal
from .findings import NotHere, Result
from .machine import find_cpp_compiler

__all__ = ["captured", "compiled", "follows_cpu", "resumed"]

_SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "HMC": lambda: HMC(0.05, num_leapfrog=4),
    "GHMC": lambda: GHMC(0.05, friction=2.0),
    "SplitHMC": lambda: SplitHMC(0.02, num_splits=3, num_leapfrog=2),
    "AMAGOLD": lambda: AMAGOLD(0.005, friction=2.0, batch_size=16),
    "AdjustedMCLMC": lambda: AdjustedMCLMC(0.02, num_leapfrog=4),
    "MCLMC": lambda: MCLMC(0.02, steps_per_iteration=4),
    "SGHMC": lambda: SGHMC(0.02, friction=5.0, batch_size=16),
    "SGLD": lambda: SGLD(1e-4, batch_size=16),
    "PSGLD": lambda: PSGLD(1e-3, batch_size=16),
    "SGNHT": lambda: SGNHT(0.02, friction=5.0, batch_size=16),
    "UnderdampedLangevin": lambda: UnderdampedLangevin(0.03, friction=50.0, batch_size=16),
    "UBU": lambda: UBU(0.03, friction=5.0, steps_per_iteration=4),
    "SMSUBU": lambda: SMSUBU(0.02, friction=5.0, batch_size=16),
}
_CHAINS, _ITERATIONS, _WARM_UP = 2, 4, 1
# Of float32 chains that round differently, after a few iterations.
_ROUNDING = 1e-3


@cache
def _posterior(device: torch.device) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 4, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return Posterior(network, (x, y), prior=Normal(0.5), device=device)


def _chain(
    name: str,
    device: torch.device,
    *,
    path: Path = "eager",
    graph: Graph = False,
    resume_at: int | None = None,
) -> Tensor:
    """The parameters `(C, D)` after some iterations, on the CPU."""
    sampler, target = _SAMPLERS[name](), _posterior(device).prepared(path=path)
    theta = target.initial("model", _CHAINS, 0)
    state = sampler.init(target, theta, seed=1, graph=graph, warm_up_iterations=_WARM_UP)
    for iteration in range(_ITERATIONS):
        if iteration == resume_at:
            kept = {key: tensor.clone() for key, tensor in state_tensors(state).items()}
            state = sampler.init(target, theta, seed=1, graph=graph, warm_up_iterations=_WARM_UP)
            restore(state, kept)
        sampler.step(state, warming_up=iteration < _WARM_UP)
    result: Tensor = state.theta.cpu()
    if torch.equal(result, theta.cpu()):
        raise AssertionError(f"{name} did not move")
    return result


def _same(pairs: Iterable[tuple[str, Tensor, Tensor]], what: str, *, rounding: float = 0.0) -> Result:
    count, largest = 0, 0.0
    for name, found, expected in pairs:
        difference = float((found - expected).abs().nan_to_num(nan=float("inf")).max())
        if difference > rounding:
            allowed = f"rounding explains {rounding:g}" if rounding else "the bits must be equal"
            return Result("FAILED", f"{name}, {what}: off by {difference:.3g}, {allowed}")
        count, largest = count + 1, max(largest, difference)
    agreement = f"within {largest:.1g}" if rounding else "the same bits"
    return Result("ok", f"{count} sampler{'s' if count > 1 else ''}, {what}: {agreement}")


def compiled(path: Path) -> Result:
    """On the CPU, beside eager."""
    if path == "loop":
        try:
            find_compiler()
        except NoCompiler as missing:
            raise NotHere(str(missing)) from None
    if path == "compiled" and find_cpp_compiler() is None:
        raise NotHere("no C++ compiler is installed (g++ or clang++), or CXX is not set")
    cpu = torch.device("cpu")
    names = ("HMC", "SGHMC") if path == "traced" else ("HMC",)  # compiling takes seconds
    pairs = ((name, _chain(name, cpu, path=path), _chain(name, cpu)) for name in names)
    return _same(pairs, f"{path} beside eager", rounding=_ROUNDING)


def resumed(device: torch.device, graph: Graph) -> Result:
    unbroken = partial(_chain, device=device, graph=graph)
    pairs = ((name, unbroken(name, resume_at=2), unbroken(name)) for name in _SAMPLERS)
    return _same(pairs, "resumed beside unbroken")


def captured(device: torch.device) -> Result:
    """CUDA graphs beside the same operations one by one."""
    pairs = ((name, _chain(name, device, graph=True), _chain(name, device)) for name in _SAMPLERS)
    return _same(pairs, "captured beside not")


def follows_cpu(device: torch.device) -> Result:
    pairs = ((name, _chain(name, device), _chain(name, torch.device("cpu"))) for name in _SAMPLERS)
    return _same(pairs, "beside the same on the CPU", rounding=_ROUNDING)
