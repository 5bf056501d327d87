"""One leapfrog step, or a trajectory of them, as other libraries take it: same model, data and posterior.

Peers get the data on the device and pre-batched; only the notebook's loop keeps its own data loading.
jax_peers.py has the libraries of jax.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from densities import SmallDensity
from torch import nn
from torch.nn import functional as F
from workloads import PRIOR_VARIANCE, Workload


class Peer(NamedTuple):
    """A program to be timed, and the check that it does the same work as ours.

    step: does `iterations` iterations and waits for them.
    gradient: of the log posterior where the chains start, one flat array in the order of torch's parameters.
    """

    step: Callable[[], object]
    gradient: Callable[[], np.ndarray]
    iterations: int = 1


def iterations_per_call(work: Workload | SmallDensity) -> int:
    """Of HMC in one call, for the libraries that make several: a call from Python costs some 100 us, many times an
    iteration of a small density."""
    return 100 if isinstance(work, SmallDensity) or work.likelihood == "bernoulli" else 10


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
                noise = torch.normal(mean=0, std=math.sqrt(2 * eta * work.step_size), size=p.shape, device=device)
                momenta[i] -= (work.step_size / 2) * gradients[i] + noise
            with torch.no_grad():
                for i, p in enumerate(model.parameters()):
                    p += work.step_size * momenta[i]
            gradients = stochastic_grad_f()
            for i, _p in enumerate(model.parameters()):
                momenta[i] -= (work.step_size / 2) * gradients[i]

    def gradient() -> np.ndarray:
        fresh = stochastic_grad_f((work.x[:batch_size], work.y[:batch_size]))
        return -torch.cat([g.flatten() for g in fresh]).cpu().numpy()

    return Peer(step, gradient)


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

    transform = posteriors.sgmcmc.sghmc.build(log_posterior, lr=work.step_size, alpha=0.1)
    first = {k: v.clone() for k, v in parameters.items()}
    box = [transform.init(parameters)]

    def step() -> None:
        for _ in range(work.num_leapfrog):
            out = transform.update(box[0], (x, y), inplace=True)
            box[0] = out[0] if isinstance(out, tuple) and not hasattr(out, "params") else out

    def gradient() -> np.ndarray:
        value = torch.func.grad(lambda p: log_posterior(p, (x, y))[0])(first)
        return torch.cat([value[name].flatten() for name, _ in model.named_parameters()]).cpu().numpy()

    return Peer(step, gradient)


def _loss(work: Workload, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if work.likelihood == "categorical":
        return F.cross_entropy(outputs, y, reduction="sum")
    if work.likelihood == "bernoulli":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], y, reduction="sum")
    return 0.5 * ((outputs[:, 0] - y) ** 2).sum()


def _copy(model: nn.Module, device: torch.device) -> nn.Module:
    import copy

    return copy.deepcopy(model).to(device)
