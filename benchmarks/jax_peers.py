"""blackjax and numpyro, used as their users do, and what they sample written in jax.

HMC runs `iterations_per_call` iterations in one jitted call, a lax.scan as in both tutorials, chains by vmap.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from densities import SmallDensity
from peers import Peer, iterations_per_call
from workloads import PRIOR_VARIANCE, Workload

# Read when jax is first imported. On a GPU it would otherwise take 75 % of the memory, and multiply float32
# matrices in TF32.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")


@dataclass(frozen=True)
class Problem:
    """What is sampled. log_density: of a position, which is any tree of arrays. start: a position.
    flat: a tree of arrays like `start` as one array, in the order of torch's parameters."""

    log_density: Callable[[Any], Any]
    start: Any
    flat: Callable[[Any], np.ndarray]

    @property
    def dim(self) -> int:
        import jax

        return sum(leaf.size for leaf in jax.tree.leaves(self.start))

    def gradient(self) -> np.ndarray:
        import jax

        return self.flat(jax.jit(jax.grad(self.log_density))(self.start))

    def starts(self, chains: int) -> Any:
        """`start` once for every chain."""
        import jax
        import jax.numpy as jnp

        return jax.tree.map(lambda p: jnp.broadcast_to(p, (chains, *p.shape)), self.start)


def problem(work: Workload | SmallDensity) -> Problem:
    import jax.numpy as jnp

    if isinstance(work, SmallDensity):
        return Problem(work.in_jax, jnp.asarray(work.start.numpy()), np.asarray)
    log_posterior, parameters, batch = _log_posterior(work, len(work.x))
    return Problem(lambda p: log_posterior(p, batch), parameters, lambda p: _flat(work, p))


# --- the samplers ---


def blackjax_sghmc(work: Workload) -> Peer:
    """blackjax' SGHMC under jit, its `work.num_leapfrog` steps in one call."""
    import blackjax
    import jax

    assert work.batch_size is not None
    log_posterior, parameters, batch = _log_posterior(work, work.batch_size)
    sampler = blackjax.sghmc(jax.grad(log_posterior), num_integration_steps=work.num_leapfrog)
    update = jax.jit(lambda key, position: sampler.step(key, position, batch, work.step_size))
    box, key = [parameters], jax.random.key(0)

    def step() -> None:
        box[0] = jax.block_until_ready(update(key, box[0]))

    return Peer(step, lambda: _flat(work, jax.jit(jax.grad(log_posterior))(parameters, batch)))


def blackjax_hmc(work: Workload | SmallDensity, chains: int) -> Peer:
    """blackjax' HMC, no adaptation."""
    import blackjax
    import jax
    import jax.numpy as jnp

    sampled, number = problem(work), iterations_per_call(work)
    sampler = blackjax.hmc(sampled.log_density, work.step_size, jnp.ones(sampled.dim), work.num_leapfrog)
    if chains == 1:
        state, kernel = sampler.init(sampled.start), sampler.step
    else:
        state = jax.vmap(sampler.init)(sampled.starts(chains))

        def kernel(key: Any, state: Any) -> Any:
            return jax.vmap(sampler.step)(jax.random.split(key, chains), state)

    @jax.jit
    def iterate(key: Any, state: Any) -> Any:
        key, *fresh = jax.random.split(key, number + 1)
        state, _ = jax.lax.scan(lambda at, k: (kernel(k, at)[0], None), state, jnp.stack(fresh))
        return key, state

    box = [(jax.random.key(0), state)]

    def step() -> None:
        box[0] = jax.block_until_ready(iterate(*box[0]))

    return Peer(step, sampled.gradient, number)


def numpyro_hmc(work: Workload | SmallDensity, chains: int) -> Peer:
    """numpyro's HMC, no adaptation; chains as in its chain_method="vectorized"."""
    import jax
    from numpyro.infer import HMC

    sampled, number = problem(work), iterations_per_call(work)
    kernel = HMC(
        potential_fn=lambda p: -sampled.log_density(p),
        step_size=work.step_size,
        num_steps=work.num_leapfrog,
        trajectory_length=None,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    key = jax.random.PRNGKey(0)
    start, keys = (sampled.start, key) if chains == 1 else (sampled.starts(chains), jax.random.split(key, chains))
    box = [kernel.init(keys, 0, init_params=start, model_args=(), model_kwargs={})]

    @jax.jit
    def iterate(state: Any) -> Any:
        return jax.lax.scan(lambda at, _: (kernel.sample(at, (), {}), None), state, length=number)[0]

    def step() -> None:
        box[0] = jax.block_until_ready(iterate(box[0]))

    return Peer(step, sampled.gradient, number)


# --- networks ---


def _log_posterior(work: Workload, batch_size: int) -> tuple[Any, Any, Any]:
    """log posterior (parameters, batch), parameters in jax's own layouts, and the batch.

    Images and kernels are channels-last, the layout that XLA is fastest in.
    """
    import jax.numpy as jnp

    x, y = work.x[:batch_size].numpy(), jnp.asarray(work.y[:batch_size].numpy())
    x = jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
    parameters = {name: _to_jax(p.detach().numpy()) for name, p in work.model.named_parameters()}
    forward = _resnet if "ResNet" in work.name else mlp
    scale = len(work.x) / batch_size

    def log_posterior(p: Any, batch: Any) -> Any:
        import jax

        inputs, labels = batch
        outputs = forward(p, inputs)
        if work.likelihood == "categorical":
            log_lik = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1).sum()
        elif work.likelihood == "bernoulli":
            log_lik = (labels * outputs[:, 0] - jax.nn.softplus(outputs[:, 0])).sum()
        else:
            log_lik = -0.5 * jnp.sum((outputs[:, 0] - labels) ** 2)
        return scale * log_lik - sum(jnp.sum(v**2) for v in p.values()) / (2 * PRIOR_VARIANCE)

    return log_posterior, parameters, (x, y)


def _to_jax(array: np.ndarray) -> Any:
    """(out, in, H, W) -> (H, W, in, out); (out, in) -> (in, out)."""
    import jax.numpy as jnp

    return jnp.asarray(np.transpose(array, (2, 3, 1, 0)) if array.ndim == 4 else array.T)


def _from_jax(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return (np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array.T).ravel()


def mlp(p: Any, x: Any) -> Any:
    """Outputs of a fully connected network, `(B, K)`."""
    import jax.numpy as jnp

    layers = sorted({int(name.split(".")[0]) for name in p})
    for layer in layers:
        x = x @ p[f"{layer}.weight"] + p[f"{layer}.bias"]
        x = jnp.tanh(x) if layer != layers[-1] else x
    return x


def _flat(work: Workload, parameters: Any) -> np.ndarray:
    return np.concatenate([_from_jax(parameters[name]) for name, _ in work.model.named_parameters()])


def _resnet(p: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        out = jax.lax.conv_general_dilated(
            x,
            p[f"{name}.weight"],
            (stride, stride),
            [(k // 2, k // 2) for k in p[f"{name}.weight"].shape[:2]],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out + p[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        scale = jax.lax.rsqrt(jnp.mean(x**2, axis=(1, 2), keepdims=True) + 1e-6)
        return x * scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = jax.nn.relu(norm("stem.1", conv("stem.0", x)))
    for block in range(9):
        name, stride = f"blocks.{block}", 2 if block in (3, 6) else 1
        out = jax.nn.relu(norm(f"{name}.norm1", conv(f"{name}.conv1", x, stride)))
        out = norm(f"{name}.norm2", conv(f"{name}.conv2", out))
        if stride == 2:
            x = norm(f"{name}.shortcut.1", conv(f"{name}.shortcut.0", x, stride))
        x = jax.nn.relu(out + x)
    return x.mean((1, 2)) @ p["head.weight"] + p["head.bias"]
