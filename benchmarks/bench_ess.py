"""Effective draws in function space, per second and per gradient, beside blackjax: same posterior, same settings.

    python benchmarks/bench_ess.py --out DIR [--only rows] [--rounds 3]

Logistic regression on 1,000 rows; logistic regression and an MLP on scikit-learn's handwritten digits. Neither
library adapts: both get the same step size, number of leapfrog steps, chains and iterations, and start from the
prior. So effective draws per gradient should agree (a check that both sample the same posterior), and those per
second compare the programs. Both make a round of draws in one call (on a GPU ours takes one per iteration). An
untimed round comes first: it compiles and burns in.
Rank-normalised bulk ESS, median over class probabilities at 50 test points.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax_peers
import numpy as np
import torch
import workloads
from common import Table, missing_peer, quantiles, say
from torch import Tensor, nn
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


def cases() -> list[Case]:
    digits, logistic = load("digits", Path("data")), workloads.logistic()
    inputs = torch.randn(50, logistic.x.shape[1], generator=torch.Generator().manual_seed(1))

    def on_digits(name: str, make: Callable[[], nn.Module], step_size: float, num_leapfrog: int) -> Case:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
        data = digits.x_train, digits.y_train, "categorical", None
        return Case(Workload(name, model, *data, num_leapfrog, step_size), digits.x_test[:50])

    return [
        # Steps of a third of a posterior deviation, a trajectory of about a quarter of a period.
        Case(replace(logistic, num_leapfrog=5), inputs),
        on_digits("logistic regression, digits", lambda: mlp(64, (), 10), 0.02, 20),
        on_digits("MLP 64-50-50-10, digits", lambda: mlp(64, (50, 50), 10), 0.015, 40),
    ]


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


def sampled(case: Case, rounds: int, device: torch.device) -> dict[str, Samples]:
    """Rounds of ours and of blackjax in turns."""
    samplers: dict[str, Round] = {}
    for provider, make in (("ours", ours), ("blackjax", blackjax)):
        try:
            samplers[provider] = make(case, device)
        except ImportError as error:
            missing_peer(error)
    for sample in samplers.values():
        sample()
    taken = {provider: Samples() for provider in samplers}
    for _ in range(rounds):
        for provider, sample in samplers.items():
            time.sleep(0.05)  # the other's threads stop spinning
            taken[provider].add(*sample())
    return taken


def run(case: Case, rounds: int, device: torch.device, table: Table) -> None:
    work = case.work
    settings = f"step size {work.step_size}, {work.num_leapfrog} leapfrog steps"
    say(f"\n{work.name}: {CHAINS} chains x {DRAWS} draws a round, {settings}, no adaptation")
    taken = sampled(case, rounds, device)
    for provider, samples in taken.items():
        per_second = quantiles(list(1 / samples.costs))
        per_gradient = quantiles([1e3 * n / case.gradients for n in samples.effective])
        table.add(work.name, provider, CHAINS, "ESS per second", "1/s", *per_second, samples=rounds)
        table.add(work.name, provider, CHAINS, "ESS per 1,000 gradients", "", *per_gradient, samples=rounds)
        median, low, high = per_second
        say(
            f"  {provider:10} {median:8.2f} effective draws per second ({low:.2f}-{high:.2f})   "
            f"{per_gradient[0]:6.2f} per 1,000 gradients   "
            f"{case.gradients / quantiles(samples.seconds)[0]:8.0f} gradients/s"
        )
    if len(taken) == 2:
        # the ratio within each round, which a noisy machine leaves comparable
        median, low, high = quantiles(list(taken["blackjax"].costs / taken["ours"].costs))
        table.add(work.name, "blackjax", CHAINS, "time over ours", "ratio", median, low, high, samples=rounds)
        first, second = (np.mean(samples.means, 0) for samples in taken.values())
        gap = float(np.abs(first - second).max())
        table.add(work.name, "blackjax", CHAINS, "largest gap of mean probabilities", "", gap)
        say(f"  blackjax' time per effective draw over ours: {median:.2f} ({low:.2f}-{high:.2f})")
        say(f"  largest gap between the two mean predictions: {gap:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(arguments.out, "ess", device)
    for case in cases():
        if arguments.only.lower() in case.work.name.lower():
            run(case, arguments.rounds, device, table)


if __name__ == "__main__":
    main()
