"""One run of eight schools in this process, printed as JSON (`bench_start.py` starts it afresh for every sample).

python benchmarks/start_run.py PROVIDER SEED
"""

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import jax_peers  # noqa: F401  settings of jax, which it reads when first imported
import numpy as np

CHAINS, ADAPTATION, DRAWS = 4, 300, 300
MISSING = 3  # exit status of a process whose library is not installed


@dataclass(frozen=True)
class Start:
    """What one process measured. mu: draws `(C, S)`. first_gradient: seconds, ours only."""

    seconds: float
    mu: list[list[float]]
    first_gradient: float | None = None


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


def main() -> None:
    try:
        start = PROVIDERS[sys.argv[1]](int(sys.argv[2]))
    except ImportError as error:
        print(f"not installed, so not compared: {error.name} (pip install -e '.[peers]')", file=sys.stderr)
        sys.exit(MISSING)
    print(json.dumps(vars(start)))


if __name__ == "__main__":
    main()
