"""Seconds from the call to finished draws in a fresh process, compilation and adaptation included.

    pytest benchmarks -k start

4 chains x (300 iterations of adaptation + 300 draws) of eight schools, non-centred: `hmc_fast.run` with
`HMC(adapt=True)`, blackjax' window adaptation and NUTS, numpyro's NUTS, each as its users call it and with its own
adaptation. Every run is a process of its own with empty caches, in turns; the clock starts after the imports
(`start_run.py`). Of ours also the seconds until its first gradient. Nothing is reported unless all libraries'
posterior means of mu agree within Monte Carlo error.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import start_run
from common import Record, cases, ratios, row
from start_run import ADAPTATION, CHAINS, DRAWS, MISSING, PROVIDERS, Start

from hmc_fast.results.diagnostics import ess_bulk, mcse_mean

# Standard errors between two libraries' means of mu; one comparison in 16,000 exceeds it by chance.
AGREEMENT = 4.0


def measured(provider: str, seed: int) -> Start | None:
    """One run in a fresh process with empty caches; None if the library is not installed."""
    with tempfile.TemporaryDirectory() as caches:
        environment = os.environ | {"XDG_CACHE_HOME": caches, "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-W", "ignore", str(Path(start_run.__file__)), provider, str(seed)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode == MISSING:
        return None
    done.check_returncode()
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def disagreement(starts: dict[str, list[Start]]) -> str | None:
    """The first pair of libraries whose means of mu over all rounds differ by more than their errors allow."""
    means, errors = {}, {}
    for provider, taken in starts.items():
        draws = np.array([start.mu for start in taken])  # (R, C, S)
        means[provider] = draws.mean()
        errors[provider] = np.sqrt(sum(float(mcse_mean(d[..., None])[0]) ** 2 for d in draws)) / len(draws)
    for a, b in combinations(starts, 2):
        error = np.hypot(errors[a], errors[b])
        if not abs(means[a] - means[b]) < AGREEMENT * error:
            return f"{a} {means[a]:.3f}, {b} {means[b]:.3f}, standard error of the difference {error:.3f}"
    return None


@functools.lru_cache(maxsize=1)
def timed(providers: tuple[str, ...], rounds: int) -> dict[str, list[Start]]:
    """The runs of those that are installed, one per round, in turns."""
    starts: dict[str, list[Start]] = {provider: [] for provider in providers}
    for seed in range(rounds):
        for provider in [*starts]:
            start = measured(provider, seed)
            if start is None:
                del starts[provider]
            else:
                starts[provider].append(start)
    return starts


@cases({"eight schools": PROVIDERS})
def test_start(case: str, provider: str, providers, rounds, record: Record) -> None:  # type: ignore[no-untyped-def]
    starts = timed(providers, rounds or 3)
    if provider not in starts:
        pytest.skip(f"not installed, so not compared: {provider} (pip install -e '.[peers]')")
    if (difference := disagreement(starts)) is not None:
        pytest.fail(f"the posterior means of mu differ, so nothing is compared: {difference}")
    taken, name = starts[provider], f"{case}, {CHAINS} chains x ({ADAPTATION} + {DRAWS})"
    seconds, new = [start.seconds for start in taken], functools.partial(row, "start", name, provider, CHAINS)
    size = float(np.median([ess_bulk(np.array(start.mu)[..., None])[0] for start in taken]))
    rows = [new("time to finished draws", "s", seconds), new("ESS of mu", "", size)]
    if provider == "ours":
        first = [start.first_gradient for start in taken if start.first_gradient is not None]
        rows.append(new("time to first gradient", "s", first))
    elif "ours" in starts:
        rows.append(new("time over ours", "ratio", ratios(seconds, [start.seconds for start in starts["ours"]])))
    record(f"start: {name}", seconds, rows)
