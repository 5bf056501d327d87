"""One leapfrog step: ours eager, compiled and captured, beside the notebook's loop, posteriors, blackjax, numpyro.

    pytest benchmarks -k steps
    pytest benchmarks -k "steps and digits and not notebook" --rounds 3

Times are per leapfrog step of all chains, from whole iterations (momentum refreshment and Metropolis test
included). Before anything is timed, each peer's gradient of the log posterior is compared with ours: one that
differs is reported instead of timed, and its test fails. The floor is a lower bound: FLOPs at the throughput of a
large matrix product, measured in the same run.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import densities
import jax_peers
import numpy as np
import peers
import pytest
import torch
import workloads
from common import Record, Row, cases, compute_device, interleaved, quantiles, ratios, row
from densities import SmallDensity
from ours import ours
from peers import Peer
from workloads import Workload

from hmc_fast.engine.execution import count_work

Work = Workload | SmallDensity
TOLERANCE = 1e-3  # of a gradient's largest element: rounding is below, a forgotten term of a density above
CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Case:
    """peers: those that can do this work."""

    make: Callable[[], Work]
    peers: tuple[str, ...]
    chains: int = 1

    @property
    def providers(self) -> tuple[str, ...]:
        # On a CPU bf16 takes .84 to .87 of the time of float32 for ResNet-20, and 1.0 to 65 times that of the
        # others. A bare density computes in its own dtype.
        others = self.make is not densities.gaussian if CUDA else self.make is workloads.resnet
        return self.peers + tuple(p for p in OURS if is_float32(p) or others)


JAX = ("blackjax", "numpyro")
CASES = {
    "regression": Case(workloads.regression, ("posteriors", *JAX)),
    "digits": Case(workloads.digits, ("notebook", "posteriors", *JAX)),
    "digits, 4 chains": Case(workloads.digits, JAX, chains=4),
    "transformer": Case(workloads.transformer, ("notebook", "posteriors")),
    "LeNet-5": Case(workloads.lenet, ("notebook", "posteriors")),
    "ResNet-20": Case(workloads.resnet, ("notebook", "posteriors", "blackjax")),
    "logistic": Case(workloads.logistic, ("posteriors", *JAX)),
    "logistic, 8 chains": Case(workloads.logistic, JAX, chains=8),
    "Gaussian": Case(densities.gaussian, JAX),
    "Gaussian, 8 chains": Case(densities.gaussian, JAX, chains=8),
}
if CUDA:
    CASES |= {
        "ResNet-20 width 16": Case(lambda: workloads.resnet(16), ("notebook", "posteriors", "blackjax")),
        "ResNet-20 batch 4096": Case(lambda: workloads.resnet(8, 4096), ("notebook", "posteriors", "blackjax")),
        "ResNet-20 full batch": Case(lambda: workloads.resnet(8, None), ("notebook", "posteriors", *JAX)),
        "LeNet 64x64x3": Case(workloads.lenet_64, ("notebook", "posteriors")),
    }
PEERS: dict[str, Callable[[Any, torch.device, int], Peer]] = {
    "notebook": lambda work, device, _: peers.notebook(work, device),
    "posteriors": lambda work, device, _: peers.posteriors_sghmc(work, device),
    "blackjax": lambda work, _, chains: (
        jax_peers.blackjax_hmc(work, chains) if work.batch_size is None else jax_peers.blackjax_sghmc(work)
    ),
    "numpyro": lambda work, _, chains: jax_peers.numpyro_hmc(work, chains),
}
OURS: dict[str, dict[str, Any]] = {"ours eager": {"path": "eager"}}
if CUDA:
    OURS |= {
        "ours captured": {"path": "eager", "graph": True},
        "ours captured tf32": {"path": "eager", "graph": True, "precision": "tf32"},
        "ours captured bf16": {"path": "eager", "graph": True, "precision": "bf16"},
        "ours compiled captured": {"path": "loop", "graph": True},
        "ours compiled captured bf16": {"path": "loop", "graph": True, "precision": "bf16"},
    }
else:
    OURS |= {
        "ours traced": {"path": "traced"},
        "ours compiled": {"path": "loop"},
        "ours compiled bf16": {"path": "loop", "precision": "bf16"},
    }


def is_float32(provider: str) -> bool:
    return "bf16" not in provider and "tf32" not in provider


@pytest.fixture(scope="session")
def matrix_rate(aside: list[Row]) -> float:
    """FLOP/s of a float32 matrix product, the best of ten."""
    device, size = compute_device(), 8192 if CUDA else 2048
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    samples = interleaved({"product": lambda: a @ b}, device, rounds=10, seconds=0.0)["product"]
    rate = 2 * size**3 / min(samples)
    aside.append(row("steps", "matrix product", "torch", 0, "rate", "GFLOP/s", rate / 1e9))
    return rate


@dataclass
class Timed:
    """A case after its rounds. seconds: of each provider, per leapfrog step, one number per round.

    flops: of a step; 0 of a bare density, whose time goes to other things. differs: by how much the gradient of a
    peer that does different work is off. absent: what is not installed.
    """

    name: str
    flops: float
    seconds: dict[str, list[float]] = field(default_factory=dict)
    differs: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str | None:
        """Our fastest float32 variant."""
        mine = [p for p in self.seconds if p.startswith("ours") and is_float32(p)]
        return min(mine, key=lambda p: quantiles(self.seconds[p]), default=None)


@functools.lru_cache(maxsize=1)
def timed(name: str, providers: tuple[str, ...], rounds: int) -> Timed:
    device, case = compute_device(), CASES[name]
    torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions: peers would do less exact work
    work, chains, flops = case.make(), case.chains, 0.0
    if isinstance(work, Workload):
        flops = count_work(work.target(device), chains, work.batch_size or len(work.x)).flops
    found = Timed(work.name if chains == 1 else f"{work.name}, {chains} chains", flops)
    expected = ours(work, device).gradient()
    made: dict[str, Peer] = {}
    for provider in providers:
        try:
            if provider in PEERS:
                peer = PEERS[provider](work, device, chains)
            else:
                peer = ours(work, device, chains=chains, **OURS[provider])
        except ImportError as error:
            found.absent[provider] = str(error.name)
            continue
        difference = float(np.abs(peer.gradient() - expected).max() / np.abs(expected).max())
        if is_float32(provider) and not difference < TOLERANCE:
            found.differs[provider] = difference
        else:
            made[provider] = peer
    for provider, taken in interleaved({p: made[p].step for p in made}, device, rounds=rounds).items():
        found.seconds[provider] = [t / (made[provider].iterations * work.num_leapfrog) for t in taken]
    return found


@cases({name: case.providers for name, case in CASES.items()})
def test_step(  # type: ignore[no-untyped-def]
    case: str, provider: str, providers, rounds, matrix_rate: float, aside: list[Row], record: Record
) -> None:
    found = timed(case, providers, rounds or (3 if case == "ResNet-20 full batch" else 5))
    new = functools.partial(row, "steps", found.name, provider, CASES[case].chains)
    if provider in found.absent:
        pytest.skip(f"not installed, so not compared: {found.absent[provider]} (pip install -e '.[peers]')")
    if provider in found.differs:
        aside.append(new("gradient differs", "of its largest element", found.differs[provider]))
        pytest.fail(f"does different work, so is not timed: its gradient differs by {found.differs[provider]:.2g}")
    seconds, floor = found.seconds[provider], found.flops / matrix_rate
    assert quantiles(seconds)[0] > 0.3 * floor, "faster than its arithmetic allows: it leaves work out"
    rows = [new("time", "ms", [1e3 * t for t in seconds])]
    if provider == found.best and floor:
        rows.append(row("steps", found.name, "floor", CASES[case].chains, "time", "ms", 1e3 * floor))
    if found.best and provider != found.best:
        rows.append(new("time over ours", "ratio", ratios(seconds, found.seconds[found.best])))
    record(f"steps: {found.name}", seconds, rows)
