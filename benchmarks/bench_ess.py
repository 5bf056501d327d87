"""Effective draws in function space, per second and per gradient, beside blackjax: same posterior, same settings.

    pytest benchmarks -k ess

Logistic regression on 1,000 rows; logistic regression and an MLP on scikit-learn's handwritten digits. Neither
library adapts: both get the same step size, number of leapfrog steps, chains and iterations, and start from the
prior. So effective draws per gradient should agree (a check that both sample the same posterior), and those per
second compare the programs. Both make a round of draws in one call (on a GPU ours takes one per iteration). An
untimed round comes first: it compiles and burns in.
Rank-normalised bulk ESS, median over class probabilities at 50 test points.
"""

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax_peers
import numpy as np
import pytest
import torch
import workloads
from common import Record, cases, compute_device, ratios, row
from torch import Tensor
from workloads import Workload

import hmc_fast
from hmc_fast.datasets import load
from hmc_fast.models import mlp
from hmc_fast.results.diagnostics import ess_bulk

CHAINS, DRAWS = 4, 200  # of one round
# The next DRAWS draws of every chain: their predictions (C, DRAWS, T, K), and the seconds that they took.
Round = Callable[[], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class Case:
    work: Workload
    inputs: Tensor  # (T, ...), whose predictions are compared

    @property
    def gradients(self) -> int:
        """Of all chains in one round."""
        return CHAINS * DRAWS * self.work.num_leapfrog


def logistic() -> Case:
    work = workloads.logistic()
    inputs = torch.randn(50, work.x.shape[1], generator=torch.Generator().manual_seed(1))
    # Steps of a third of a posterior deviation, a trajectory of about a quarter of a period.
    return Case(replace(work, num_leapfrog=5), inputs)


def on_digits(name: str, hidden: tuple[int, ...], step_size: float, num_leapfrog: int) -> Case:
    digits = load("digits", Path("data"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(64, hidden, 10)
    data = digits.x_train, digits.y_train, "categorical", None
    return Case(Workload(name, model, *data, num_leapfrog, step_size), digits.x_test[:50])


CASES: dict[str, Callable[[], Case]] = {
    "1,000 rows": logistic,
    "logistic digits": lambda: on_digits("logistic regression, digits", (), 0.02, 20),
    "MLP digits": lambda: on_digits("MLP 64-50-50-10, digits", (50, 50), 0.015, 40),
}


def ours(case: Case, device: torch.device) -> Round:
    cuda = device.type == "cuda"
    posterior = case.work.target(device).prepared(path="compiled" if cuda else "loop")
    sampler = hmc_fast.HMC(case.work.step_size, num_leapfrog=case.work.num_leapfrog)
    state = sampler.init(posterior, posterior.initial("prior", CHAINS, 0), seed=0, graph=cuda)
    inputs = case.inputs.to(device)

    def sample() -> tuple[np.ndarray, float]:
        begin = time.perf_counter()
        _, kept, _ = sampler.steps(state, DRAWS)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        return torch.stack([posterior.predict(theta, inputs) for theta in kept], 1).cpu().numpy(), seconds

    return sample


def blackjax(case: Case, device: torch.device) -> Round:
    import blackjax
    import jax
    import jax.numpy as jnp

    sampled, inputs = jax_peers.problem(case.work), jnp.asarray(case.inputs.flatten(1).numpy())
    leaves, tree = jax.tree.flatten(sampled.start)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    prior = [jax.random.normal(k, (CHAINS, *p.shape)) for k, p in zip(keys, leaves, strict=True)]
    start = jax.tree.unflatten(tree, [workloads.PRIOR_VARIANCE**0.5 * p for p in prior])
    sampler = blackjax.hmc(sampled.log_density, case.work.step_size, jnp.ones(sampled.dim), case.work.num_leapfrog)

    def iteration(state: Any, key: Any) -> Any:
        state, _ = jax.vmap(sampler.step)(jax.random.split(key, CHAINS), state)
        return state, state.position

    run = jax.jit(lambda state, key: jax.lax.scan(iteration, state, jax.random.split(key, DRAWS)))
    box = [(jax.vmap(sampler.init)(start), jax.random.key(2))]

    def probabilities(p: Any) -> Any:
        outputs = jax_peers.mlp(p, inputs)
        if case.work.likelihood == "bernoulli":
            return jnp.concatenate([jax.nn.sigmoid(-outputs), jax.nn.sigmoid(outputs)], -1)
        return jax.nn.softmax(outputs)

    predict = jax.jit(jax.vmap(jax.vmap(probabilities)))

    def sample() -> tuple[np.ndarray, float]:
        state, key = box[0]
        key, fresh = jax.random.split(key)
        begin = time.perf_counter()
        state, positions = jax.block_until_ready(run(state, fresh))
        seconds = time.perf_counter() - begin
        box[0] = state, key
        return np.moveaxis(np.asarray(predict(positions)), 0, 1), seconds

    return sample


@dataclass
class Samples:
    """One entry per round: effective draws, seconds, and mean predictions."""

    effective: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    means: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray, seconds: float) -> None:
        values = values.reshape(CHAINS, DRAWS, -1).astype(np.float64)
        self.effective.append(float(np.nanmedian(ess_bulk(values))))
        self.seconds.append(seconds)
        self.means.append(values.mean((0, 1)))

    @property
    def costs(self) -> np.ndarray:
        """Seconds per effective draw, of each round."""
        return np.array(self.seconds) / np.array(self.effective)


@functools.lru_cache(maxsize=1)
def timed(name: str, providers: tuple[str, ...], rounds: int) -> tuple[Case, dict[str, Samples]]:
    """Rounds of ours and of blackjax in turns."""
    case, device = CASES[name](), compute_device()
    samplers: dict[str, Round] = {}
    for provider in providers:
        with contextlib.suppress(ImportError):
            samplers[provider] = {"ours": ours, "blackjax": blackjax}[provider](case, device)
    for sample in samplers.values():
        sample()
    taken = {provider: Samples() for provider in samplers}
    for _ in range(rounds):
        for provider, sample in samplers.items():
            time.sleep(0.05)  # the other's threads stop spinning
            taken[provider].add(*sample())
    return case, taken


@cases(dict.fromkeys(CASES, ("ours", "blackjax")))
def test_ess(case: str, provider: str, providers, rounds, record: Record) -> None:  # type: ignore[no-untyped-def]
    at, taken = timed(case, providers, rounds or 3)
    if provider not in taken:
        pytest.skip(f"not installed, so not compared: {provider} (pip install -e '.[peers]')")
    samples, new = taken[provider], functools.partial(row, "ess", at.work.name, provider, CHAINS)
    rows = [
        new("ESS per second", "1/s", list(1 / samples.costs)),
        new("ESS per 1,000 gradients", "", [1e3 * n / at.gradients for n in samples.effective]),
    ]
    if provider != "ours" and "ours" in taken:
        rows.append(new("time over ours", "ratio", ratios(samples.costs, taken["ours"].costs)))
        first, second = np.mean(taken["ours"].means, 0), np.mean(samples.means, 0)
        rows.append(new("largest gap of mean probabilities", "", float(np.abs(first - second).max())))
    record(f"ess, seconds per effective draw: {at.work.name}", samples.costs.tolist(), rows)
