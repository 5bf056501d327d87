"""Seconds from the call to finished draws in a fresh process, compilation and adaptation included.

    python benchmarks/bench_start.py --out DIR [--rounds 3]

4 chains x (300 iterations of adaptation + 300 draws) of eight schools, non-centred: `hmc_fast.run` with
`HMC(adapt=True)`, blackjax' window adaptation and NUTS, numpyro's NUTS, each as its users call it and with its own
adaptation. Every run is a process of its own with empty caches, in turns; the clock starts after the imports. Of
ours also the seconds until its first gradient. Before a row is written, all libraries' posterior means of mu must
agree within Monte Carlo error.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHAINS, ADAPTATION, DRAWS = 4, 300, 300
MISSING = 3  # exit status of a process whose library is not installed
# Standard errors between two libraries' means of mu; one comparison in 16,000 exceeds it by chance.
AGREEMENT = 4.0


@dataclass(frozen=True)
class Start:
    """What one process measured. mu: draws `(C, S)`. first_gradient: seconds, ours only."""

    seconds: float
    mu: list[list[float]]
    first_gradient: float | None = None


# --- in a process of its own ---


def ours(seed: int) -> Start:
    import torch
    from densities import eight_schools

    import hmc_fast

    class Timed(hmc_fast.HMC):
        """Notes when the first gradient of its chains is done."""

        def init(self, target: Any, theta: Any, **options: Any) -> Any:
            evaluate = target.log_likelihood_and_grad

            def first(*arguments: Any) -> None:
                evaluate(*arguments)
                self.first_gradient = time.perf_counter()
                del target.log_likelihood_and_grad  # the instance's: from now on the class's again

            target.log_likelihood_and_grad = first
            return super().init(target, theta, **options)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin = time.perf_counter()
    sampler = Timed(adapt=True)
    run = hmc_fast.run(
        eight_schools().target(device),
        sampler,
        chains=CHAINS,
        burn_in=ADAPTATION,
        draws=DRAWS,
        seed=seed,
        progress=False,
    )
    draws = np.asarray(run.draws)  # (S, C, D)
    return Start(time.perf_counter() - begin, draws[:, :, 0].T.tolist(), sampler.first_gradient - begin)


def blackjax(seed: int) -> Start:
    import blackjax
    import jax
    import jax_peers  # noqa: F401  settings of jax
    from densities import eight_schools

    begin = time.perf_counter()
    density = eight_schools()
    warm_up = blackjax.window_adaptation(blackjax.nuts, density.in_jax)
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    starts = jax.random.uniform(first, (CHAINS, density.dim), minval=-2, maxval=2)

    def adapt(key: Any, start: Any) -> Any:
        (state, parameters), _ = warm_up.run(key, start, ADAPTATION)
        return state, parameters

    def sample(key: Any, state: Any, parameters: Any) -> Any:
        kernel = blackjax.nuts(density.in_jax, **parameters).step

        def iteration(state: Any, key: Any) -> Any:
            state, _ = kernel(key, state)
            return state, state.position

        return jax.lax.scan(iteration, state, jax.random.split(key, DRAWS))[1]

    states, parameters = jax.jit(jax.vmap(adapt))(jax.random.split(second, CHAINS), starts)
    draws = np.asarray(jax.jit(jax.vmap(sample))(jax.random.split(third, CHAINS), states, parameters))
    return Start(time.perf_counter() - begin, draws[:, :, 0].tolist())


def numpyro(seed: int) -> Start:
    import jax
    import jax_peers  # noqa: F401  settings of jax
    import numpyro
    from densities import EFFECTS, ERRORS
    from numpyro import distributions
    from numpyro.infer import MCMC, NUTS

    begin = time.perf_counter()
    effects, errors = np.array(EFFECTS), np.array(ERRORS)

    def model() -> None:
        mu = numpyro.sample("mu", distributions.Normal(0, 5))
        tau = numpyro.sample("tau", distributions.HalfCauchy(5))
        with numpyro.plate("schools", len(effects)):
            z = numpyro.sample("z", distributions.Normal(0, 1))
            numpyro.sample("effects", distributions.Normal(mu + tau * z, errors), obs=effects)

    mcmc = MCMC(
        NUTS(model),
        num_warmup=ADAPTATION,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(seed))
    draws = np.asarray(mcmc.get_samples(group_by_chain=True)["mu"])
    return Start(time.perf_counter() - begin, draws.tolist())


PROVIDERS = {"ours": ours, "blackjax": blackjax, "numpyro": numpyro}


def child(provider: str, seed: int) -> None:
    try:
        start = PROVIDERS[provider](seed)
    except ImportError as error:
        print(f"not installed, so not compared: {error.name} (pip install -e '.[peers]')", file=sys.stderr)
        sys.exit(MISSING)
    print(json.dumps(vars(start)))


# --- in the process that compares ---


def measured(provider: str, seed: int) -> Start | None:
    """One run in a fresh process with empty caches; None if the library is not installed."""
    with tempfile.TemporaryDirectory() as caches:
        environment = os.environ | {"XDG_CACHE_HOME": caches, "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-W", "ignore", __file__, "--provider", provider, "--seed", str(seed)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode == MISSING:
        return None
    done.check_returncode()
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def disagreement(starts: dict[str, list[Start]]) -> str | None:
    """The first pair of libraries whose means of mu over all rounds differ by more than their errors allow."""
    from itertools import combinations

    from hmc_fast.results.diagnostics import mcse_mean

    means, errors = {}, {}
    for provider, rounds in starts.items():
        draws = np.array([start.mu for start in rounds])  # (R, C, S)
        means[provider] = draws.mean()
        errors[provider] = np.sqrt(sum(float(mcse_mean(d[..., None])[0]) ** 2 for d in draws)) / len(draws)
    for a, b in combinations(starts, 2):
        error = np.hypot(errors[a], errors[b])
        if not abs(means[a] - means[b]) < AGREEMENT * error:
            return f"{a} {means[a]:.3f}, {b} {means[b]:.3f}, standard error of the difference {error:.3f}"
    return None


def compare(out: Path, rounds: int) -> None:
    import torch
    from common import Table, quantiles, say

    from hmc_fast.results.diagnostics import ess_bulk

    name = f"eight schools, {CHAINS} chains x ({ADAPTATION} + {DRAWS})"
    table = Table(out, "start", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    starts: dict[str, list[Start]] = {provider: [] for provider in PROVIDERS}
    for seed in range(rounds):
        for provider in [*starts]:
            start = measured(provider, seed)
            if start is None:
                del starts[provider]
            else:
                starts[provider].append(start)
    if (difference := disagreement(starts)) is not None:
        sys.exit(f"the posterior means of mu differ, so nothing is compared: {difference}")
    say(f"{name}: seconds in a fresh process, {rounds} rounds")
    seconds = {provider: [start.seconds for start in taken] for provider, taken in starts.items()}
    for provider, taken in starts.items():
        time_ = quantiles(seconds[provider])
        ratio = quantiles([theirs / mine for theirs, mine in zip(seconds[provider], seconds["ours"], strict=True)])
        size = float(np.median([ess_bulk(np.array(start.mu)[..., None])[0] for start in taken]))
        table.add(name, provider, CHAINS, "time to finished draws", "s", *time_, samples=rounds)
        table.add(name, provider, CHAINS, "ESS of mu", "", size, samples=rounds)
        if provider != "ours":
            table.add(name, provider, CHAINS, "time over ours", "ratio", *ratio, samples=rounds)
        mean = np.mean([start.mu for start in taken])
        say(
            f"  {provider:10} {time_[0]:6.2f} s ({time_[1]:.2f}-{time_[2]:.2f})   over ours {ratio[0]:.2f} "
            f"({ratio[1]:.2f}-{ratio[2]:.2f})   mean of mu {mean:.2f}, effective draws {size:.0f}"
        )
    first = quantiles([start.first_gradient for start in starts["ours"] if start.first_gradient is not None])
    table.add(name, "ours", CHAINS, "time to first gradient", "s", *first, samples=rounds)
    say(f"  ours, until the first gradient: {first[0]:.2f} s ({first[1]:.2f}-{first[2]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--provider", choices=PROVIDERS, help="one run in this process, printed as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of that run")
    arguments = parser.parse_args()
    if arguments.provider:
        child(arguments.provider, arguments.seed)
    else:
        compare(arguments.out, arguments.rounds)


if __name__ == "__main__":
    main()
