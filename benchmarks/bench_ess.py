"""Effective draws in function space, per second and per gradient, beside blackjax: same posterior, same settings.

    python benchmarks/bench_ess.py --out DIR

Logistic regression and an MLP on scikit-learn's handwritten digits. Both libraries get the same step size, number
of leapfrog steps, chains and iterations, and start from the prior, so effective draws per gradient should agree (a
check that both sample the same posterior) and those per second compare the programs. Compilation is left out of the
time.
Rank-normalised bulk ESS, median over class probabilities at 50 test points.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Table, missing_peer, say
from torch import nn

import hmc_fast
from hmc_fast.datasets import load
from hmc_fast.models import mlp
from hmc_fast.results.diagnostics import ess_bulk

CHAINS, BURN_IN, DRAWS, VARIANCE = 4, 50, 200, 0.2
CASES: dict[str, tuple[Callable[[], nn.Module], float, int]] = {
    "logistic regression, digits": (lambda: mlp(64, (), 10), 0.02, 20),
    "MLP 64-50-50-10, digits": (lambda: mlp(64, (50, 50), 10), 0.015, 40),
}


def run_ours(model: nn.Module, data: Any, step_size: float, length: int) -> tuple[np.ndarray, float]:
    posterior = hmc_fast.Posterior(model, (data.x_train, data.y_train), prior=hmc_fast.Normal(VARIANCE))
    cuda = torch.cuda.is_available()
    posterior = posterior.to("cuda" if cuda else "cpu").prepared(path="compiled" if cuda else "loop")
    sampler = hmc_fast.HMC(step_size, num_leapfrog=length)
    state = sampler.init(posterior, posterior.initial("prior", CHAINS, 0), seed=0, graph=cuda)
    inputs = data.x_test[:50].to(posterior.device)
    for _ in range(BURN_IN):
        sampler.step(state)
    kept, begin = [], time.perf_counter()
    for _ in range(DRAWS):
        sampler.step(state)
        kept.append(state.theta.clone())
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return torch.stack([posterior.predict(theta, inputs) for theta in kept], 1).cpu().numpy(), seconds


def run_blackjax(model: nn.Module, data: Any, step_size: float, length: int) -> tuple[np.ndarray, float]:
    import blackjax
    import jax
    import jax.numpy as jnp

    x, y = jnp.asarray(data.x_train.flatten(1).numpy()), jnp.asarray(data.y_train.numpy())
    inputs = jnp.asarray(data.x_test[:50].flatten(1).numpy())
    shapes = [(p.shape[::-1] if p.ndim == 2 else p.shape) for p in model.parameters()]

    def outputs(p: Any, x: Any) -> Any:
        for layer in range(len(p) // 2):
            x = x @ p[2 * layer] + p[2 * layer + 1]
            x = jnp.tanh(x) if layer < len(p) // 2 - 1 else x
        return x

    def log_posterior(p: Any) -> Any:
        log_lik = jnp.take_along_axis(jax.nn.log_softmax(outputs(p, x)), y[:, None], 1).sum()
        return log_lik - sum(jnp.sum(v**2) for v in p) / (2 * VARIANCE)

    keys = jax.random.split(jax.random.key(1), len(shapes))
    start = [jnp.sqrt(VARIANCE) * jax.random.normal(k, (CHAINS, *s)) for k, s in zip(keys, shapes, strict=True)]
    size = sum(int(np.prod(s)) for s in shapes)
    sampler = blackjax.hmc(log_posterior, step_size, jnp.ones(size), length)
    step = jax.jit(jax.vmap(sampler.step))
    state, key = jax.vmap(sampler.init)(start), jax.random.key(2)
    kept, begin = [], 0.0
    for iteration in range(BURN_IN + DRAWS):
        if iteration == BURN_IN:
            jax.block_until_ready(state)
            begin = time.perf_counter()
        key, fresh = jax.random.split(key)
        state, _ = step(jax.random.split(fresh, CHAINS), state)
        if iteration >= BURN_IN:
            kept.append(state.position)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begin
    predict = jax.jit(jax.vmap(lambda p: jax.nn.softmax(outputs(p, inputs))))
    return np.stack([np.asarray(predict(p)) for p in kept], 1), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table, data = Table(arguments.out, "ess", device), load("digits", Path("data"))
    for name, (make, step_size, length) in CASES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
        say(f"\n{name}: {CHAINS} chains x {DRAWS} draws, step size {step_size}, {length} leapfrog steps")
        means = {}
        for provider, run in (("ours", run_ours), ("blackjax", run_blackjax)):
            try:
                values, seconds = run(model, data, step_size, length)
            except ImportError as error:
                missing_peer(error)
                continue
            values = values.reshape(CHAINS, DRAWS, -1).astype(np.float64)
            means[provider] = values.mean((0, 1))
            ess = float(np.nanmedian(ess_bulk(values)))
            gradients = CHAINS * DRAWS * length
            table.add(name, provider, CHAINS, "ESS per second", "1/s", ess / seconds)
            table.add(name, provider, CHAINS, "ESS per 1,000 gradients", "", 1e3 * ess / gradients)
            say(
                f"  {provider:10} ESS {ess:6.0f}   {ess / seconds:8.2f} per second   "
                f"{1e3 * ess / gradients:6.2f} per 1,000 gradients   {gradients / seconds:8.0f} gradients/s"
            )
        if len(means) == 2:
            gap = float(np.abs(means["ours"] - means["blackjax"]).max())
            table.add(name, "blackjax", CHAINS, "largest gap of mean probabilities", "", gap)
            say(f"  largest gap between the two mean predictions: {gap:.3f}")


if __name__ == "__main__":
    main()
