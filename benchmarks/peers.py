"""One leapfrog step, or a trajectory of them, as other libraries take it: same model, data and posterior.

Every peer is `(step, gradient)`: a call that does one iteration and waits for it, and the gradient of its log
posterior at the model's own weights as one flat array, by which the suite checks that the work is the same.
Peers get the data on the device and pre-batched; only the notebook's loop keeps its own data loading.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from workloads import Workload

Peer = tuple[Callable[[], object], Callable[[], np.ndarray]]
PRIOR_VARIANCE = 0.2
STEP_SIZE = 1e-4


# --- the notebook this project grew from ---


class _Images(torch.utils.data.Dataset[Any]):
    """The notebook's data set: numpy arrays, one tensor made per item."""

    def __init__(self, work: Workload) -> None:
        self.images, self.labels = work.x.numpy(), work.y.numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(self.images[index]), torch.tensor(self.labels[index])


def notebook(work: Workload, device: torch.device) -> Peer:
    """Its stochastic leapfrog: two gradients per step, a loop over tensors, a new loader for each gradient.

    Its mistakes (the sign, the scale of the likelihood) are corrected here, at the same cost.
    """
    model = _copy(work.model, device)
    batch_size = work.batch_size or len(work.x)
    loader = torch.utils.data.DataLoader(_Images(work), batch_size=batch_size, shuffle=True)
    momenta = [torch.randn_like(p) for p in model.parameters()]
    eta = 1e-6

    def stochastic_grad_f(batch: Any = None) -> list[torch.Tensor]:
        model.zero_grad()
        data, target = next(iter(loader)) if batch is None else batch
        data, target = data.to(device), target.to(device)
        loss = _loss(work, model(data), target) * (len(work.x) / len(data))
        log_prior = -0.5 * sum(torch.sum(p**2) for p in model.parameters()) / PRIOR_VARIANCE
        (loss - log_prior).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    def step() -> None:
        for _ in range(work.num_leapfrog):
            gradients = stochastic_grad_f()
            for i, p in enumerate(model.parameters()):
                noise = torch.normal(mean=0, std=math.sqrt(2 * eta * STEP_SIZE), size=p.shape, device=device)
                momenta[i] -= (STEP_SIZE / 2) * gradients[i] + noise
            with torch.no_grad():
                for i, p in enumerate(model.parameters()):
                    p += STEP_SIZE * momenta[i]
            gradients = stochastic_grad_f()
            for i, _p in enumerate(model.parameters()):
                momenta[i] -= (STEP_SIZE / 2) * gradients[i]

    def gradient() -> np.ndarray:
        fresh = stochastic_grad_f((work.x[:batch_size], work.y[:batch_size]))
        return -torch.cat([g.flatten() for g in fresh]).cpu().numpy()

    return step, gradient


# --- posteriors ---


def posteriors_sghmc(work: Workload, device: torch.device) -> Peer:
    """posteriors' SGHMC, in place."""
    import posteriors

    model = _copy(work.model, device)
    batch_size = work.batch_size or len(work.x)
    x, y = work.x[:batch_size].to(device), work.y[:batch_size].to(device)
    scale = len(work.x) / batch_size
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}

    def log_posterior(p: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = torch.func.functional_call(model, p, (batch[0],))
        prior = sum(torch.sum(v**2) for v in p.values()) / (2 * PRIOR_VARIANCE)
        return -_loss(work, outputs, batch[1]) * scale - prior, torch.empty(0)

    transform = posteriors.sgmcmc.sghmc.build(log_posterior, lr=STEP_SIZE, alpha=0.1)
    first = {k: v.clone() for k, v in parameters.items()}
    box = [transform.init(parameters)]

    def step() -> None:
        for _ in range(work.num_leapfrog):
            out = transform.update(box[0], (x, y), inplace=True)
            box[0] = out[0] if isinstance(out, tuple) and not hasattr(out, "params") else out

    def gradient() -> np.ndarray:
        value = torch.func.grad(lambda p: log_posterior(p, (x, y))[0])(first)
        return torch.cat([value[name].flatten() for name, _ in model.named_parameters()]).cpu().numpy()

    return step, gradient


# --- jax ---


def _jax_log_posterior(work: Workload, batch_size: int) -> tuple[Any, Any, Any]:
    """log posterior (parameters, batch), parameters in jax's own layouts, and the batch.

    Images and kernels are channels-last, the layout that XLA is fastest in.
    """
    import jax.numpy as jnp

    x, y = work.x[:batch_size].numpy(), jnp.asarray(work.y[:batch_size].numpy())
    x = jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
    parameters = {name: _to_jax(p.detach().numpy()) for name, p in work.model.named_parameters()}
    forward = _jax_resnet if "ResNet" in work.name else _jax_mlp
    scale = len(work.x) / batch_size

    def log_posterior(p: Any, batch: Any) -> Any:
        import jax

        inputs, labels = batch
        outputs = forward(p, inputs)
        if work.likelihood == "categorical":
            log_lik = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1).sum()
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


def _jax_mlp(p: Any, x: Any) -> Any:
    import jax.numpy as jnp

    layers = sorted({int(name.split(".")[0]) for name in p})
    for layer in layers:
        x = x @ p[f"{layer}.weight"] + p[f"{layer}.bias"]
        x = jnp.tanh(x) if layer != layers[-1] else x
    return x


def _jax_resnet(p: Any, x: Any) -> Any:
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


def _jax_gradient(work: Workload, log_posterior: Any, parameters: Any, batch: Any) -> Callable[[], np.ndarray]:
    def gradient() -> np.ndarray:
        import jax

        value = jax.jit(jax.grad(log_posterior))(parameters, batch)
        return np.concatenate([_from_jax(value[name]) for name, _ in work.model.named_parameters()])

    return gradient


def blackjax_sghmc(work: Workload) -> Peer:
    """blackjax' SGHMC under jit."""
    import blackjax
    import jax

    assert work.batch_size is not None
    log_posterior, parameters, batch = _jax_log_posterior(work, work.batch_size)
    sampler = blackjax.sghmc(jax.grad(log_posterior), num_integration_steps=work.num_leapfrog)
    update = jax.jit(lambda key, position: sampler.step(key, position, batch, STEP_SIZE))
    box, key = [parameters], jax.random.key(0)

    def step() -> None:
        box[0] = jax.block_until_ready(update(key, box[0]))

    return step, _jax_gradient(work, log_posterior, parameters, batch)


def blackjax_hmc(work: Workload, chains: int) -> Peer:
    """blackjax' HMC under jit, chains by vmap."""
    import blackjax
    import jax
    import jax.numpy as jnp

    log_posterior, parameters, batch = _jax_log_posterior(work, len(work.x))
    size = sum(p.size for p in parameters.values())
    sampler = blackjax.hmc(lambda p: log_posterior(p, batch), STEP_SIZE, jnp.ones(size), work.num_leapfrog)
    stacked = jax.tree.map(lambda p: jnp.broadcast_to(p, (chains, *p.shape)), parameters)
    keys = jax.random.split(jax.random.key(0), chains)
    if chains == 1:
        box, keys, update = [sampler.init(parameters)], keys[0], jax.jit(sampler.step)
    else:
        box, update = [jax.vmap(sampler.init)(stacked)], jax.jit(jax.vmap(sampler.step))

    def step() -> None:
        box[0] = jax.block_until_ready(update(keys, box[0])[0])

    return step, _jax_gradient(work, log_posterior, parameters, batch)


def numpyro_hmc(work: Workload) -> Peer:
    """numpyro's HMC under jit, one chain, no adaptation."""
    import jax
    from numpyro.infer import HMC

    log_posterior, parameters, batch = _jax_log_posterior(work, len(work.x))
    kernel = HMC(
        potential_fn=lambda p: -log_posterior(p, batch),
        step_size=STEP_SIZE,
        num_steps=work.num_leapfrog,
        trajectory_length=None,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    box = [kernel.init(jax.random.PRNGKey(0), 0, init_params=parameters, model_args=(), model_kwargs={})]
    update = jax.jit(lambda state: kernel.sample(state, (), {}))

    def step() -> None:
        box[0] = jax.block_until_ready(update(box[0]))

    return step, _jax_gradient(work, log_posterior, parameters, batch)


def _loss(work: Workload, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if work.likelihood == "categorical":
        return F.cross_entropy(outputs, y, reduction="sum")
    return 0.5 * ((outputs[:, 0] - y) ** 2).sum()


def _copy(model: nn.Module, device: torch.device) -> nn.Module:
    import copy

    return copy.deepcopy(model).to(device)
