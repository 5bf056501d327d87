"""Posterior approximations by training: SGD, deep ensembles, SWAG, mean-field VI, Laplace.

All use rows of the flat buffer and `posterior.potential_and_grad`, the minibatch gradient of -log posterior with
the likelihood scaled to the full data. They therefore approximate the same posterior that the samplers target.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets import Dataset
from ..errors import UserError
from ..targets.flat_module import FlatModel
from ..targets.posterior import Posterior

__all__ = ["METHODS", "Approximation", "approximate"]

BATCH_SIZE = 128
MOMENTUM = 0.9
LEARNING_RATE = 0.05  # on the mean loss; .02, .05, .1 and .2 on digits (40 epochs) give MAP accuracy .95 to .96
NUM_SAMPLES = 40  # weight samples from a fitted Gaussian


@dataclass(frozen=True)
class Approximation:
    """Weights `(S, C, D)` float32, and the passes over the data up to each of them, `(S,)`."""

    draws: np.ndarray
    passes: np.ndarray


def approximate(
    method: str,
    posterior: Posterior,
    network: Callable[[int], nn.Module],
    dataset: Dataset,
    *,
    epochs: int,
    seed: int = 0,
    members: int = 1,
) -> Approximation:
    """Runs one of `METHODS`.

    Args:
        network: makes a fresh network from a seed. epochs: passes over the data per network. members: number of
            networks of "ensemble".
    """
    first = 1000 * seed  # seeds of networks do not overlap between repetitions
    rows = [FlatModel(network(first + member)).initial for member in range(members)]
    theta = torch.stack(rows).to(posterior.device, posterior.dtype)
    return METHODS[method](posterior, theta, epochs, torch.Generator().manual_seed(first))


def _batches(
    posterior: Posterior, epochs: int, rows: int, generator: torch.Generator
) -> Iterator[tuple[float, Tensor]]:
    """(fraction of training done, indices `(rows, B)`) over `epochs` shuffled passes; the incomplete last batch of
    each pass is dropped."""
    size = min(BATCH_SIZE, posterior.num_data)
    per_epoch = posterior.num_data // size
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(posterior.num_data, generator=generator)
        batch = order[step % per_epoch * size :][:size].to(posterior.device)
        yield step / (epochs * per_epoch), batch.expand(rows, size)


def _descend(
    posterior: Posterior, theta: Tensor, epochs: int, generator: torch.Generator, *, constant: float | None = None
) -> Iterator[None]:
    """SGD with momentum on -log posterior / N, in place, for all rows in parallel; the learning rate decays to 0
    along a cosine, or is `constant`. Yields after every epoch."""
    velocity = torch.zeros_like(theta)
    per_epoch = posterior.num_data // min(BATCH_SIZE, posterior.num_data)
    for step, (done, batch) in enumerate(_batches(posterior, epochs, len(theta), generator)):
        _, grad = posterior.potential_and_grad(theta, batch)
        rate = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * done)) if constant is None else constant
        velocity.mul_(MOMENTUM).sub_(grad, alpha=rate / posterior.num_data)
        theta.add_(velocity)
        if step % per_epoch == per_epoch - 1:
            yield


def sgd(posterior: Posterior, theta: Tensor, epochs: int, generator: torch.Generator) -> Approximation:
    """One network near a posterior mode (MAP). With several rows, a deep ensemble (Lakshminarayanan et al. 2017,
    arXiv:1612.01474), one draw per network."""
    for _ in _descend(posterior, theta, epochs, generator):
        pass
    return Approximation(_numpy(theta)[:, None], epochs * np.arange(1.0, len(theta) + 1))


def swag(posterior: Posterior, theta: Tensor, epochs: int, generator: torch.Generator) -> Approximation:
    """SWAG (Maddox et al. 2019, arXiv:1902.02476): a Gaussian fitted to SGD iterates at a constant learning rate;
    its covariance is half diagonal, half of rank 20. The first three quarters of the epochs are plain training."""
    collecting = max(2, epochs // 4)
    for _ in _descend(posterior, theta, epochs - collecting, generator):
        pass
    constant = LEARNING_RATE / 5
    visited = [theta.clone() for _ in _descend(posterior, theta, collecting, generator, constant=constant)]
    points = torch.stack(visited)[:, 0]  # (epochs, D)
    mean = points.mean(0)
    deviations = (points - mean)[-20:]
    diagonal = (points.square().mean(0) - mean.square()).clamp_min(0).sqrt()
    own = _normals((NUM_SAMPLES, points.shape[1]), generator)
    shared = _normals((NUM_SAMPLES, len(deviations)), generator)
    spread = own * diagonal.cpu() + shared @ deviations.cpu() / (len(deviations) - 1) ** 0.5
    draws = mean.cpu() + spread / 2**0.5
    return Approximation(_numpy(draws)[:, None], np.full(NUM_SAMPLES, float(epochs)))


def mean_field(posterior: Posterior, theta: Tensor, epochs: int, generator: torch.Generator) -> Approximation:
    """Mean-field variational inference (Blundell et al. 2015, arXiv:1505.05424) as in Izmailov et al. 2021: Adam,
    with means initialised at an SGD solution, which takes half of the epochs, and standard deviations at .01."""
    half = max(1, epochs // 2)
    for _ in _descend(posterior, theta, half, generator):
        pass
    mean = theta[0].clone()
    log_sd = torch.full_like(mean, float(np.log(0.01)))
    optimizer = torch.optim.Adam([{"params": [mean], "lr": 1e-3}, {"params": [log_sd], "lr": 1e-2}])
    noisy = 4  # weight samples per gradient, rows of one batched pass
    steps = (epochs - half) * (posterior.num_data // min(BATCH_SIZE, posterior.num_data))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _, batch in _batches(posterior, epochs - half, noisy, generator):
        noise = _normals((noisy, len(mean)), generator).to(mean)
        _, grad = posterior.potential_and_grad(mean + log_sd.exp() * noise, batch)
        mean.grad = grad.mean(0) / posterior.num_data
        # The -1 is the gradient of the Gaussian's negative entropy, -sum(log_sd).
        log_sd.grad = ((grad * noise).mean(0) * log_sd.exp() - 1) / posterior.num_data
        optimizer.step()
        schedule.step()
    draws = mean.cpu() + log_sd.exp().cpu() * _normals((NUM_SAMPLES, len(mean)), generator)
    return Approximation(_numpy(draws)[:, None], np.full(NUM_SAMPLES, float(half + noisy * (epochs - half))))


def laplace(posterior: Posterior, theta: Tensor, epochs: int, generator: torch.Generator) -> Approximation:
    """Last-layer Laplace approximation with full covariance at an SGD solution (Daxberger et al. 2021,
    arXiv:2106.14806), with the library of that paper.

    Raises:
        UserError: laplace-torch is not installed, or the data are not in memory.
    """
    if posterior.stream is not None:
        raise UserError("the Laplace approximation needs the data in memory: use a smaller --train-size")
    try:
        from laplace import Laplace
    except ImportError as error:
        raise UserError("laplace needs laplace-torch: pip install 'hmc_fast[laplace]'") from error
    for _ in _descend(posterior, theta, epochs, generator):
        pass
    network = copy.deepcopy(posterior.flat.module).requires_grad_(True)
    posterior.flat.set_weights(network, theta[0])
    deviation = posterior.prior[0].scale
    assert isinstance(deviation, float)
    assert isinstance(posterior.x, torch.Tensor)
    data = torch.utils.data.TensorDataset(posterior.x, posterior.y)
    fitted = Laplace(
        network,
        "classification",
        subset_of_weights="last_layer",
        hessian_structure="full",
        prior_precision=1 / deviation**2,
    )
    fitted.fit(torch.utils.data.DataLoader(data, batch_size=1024))
    own = torch.Generator(posterior.device).manual_seed(generator.initial_seed())
    last = fitted.sample(NUM_SAMPLES, generator=own)
    draws = theta.expand(NUM_SAMPLES, -1).clone()
    draws[:, -last.shape[1] :] = last
    return Approximation(_numpy(draws)[:, None], np.full(NUM_SAMPLES, float(epochs + 1)))


def _normals(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _numpy(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().float().cpu().numpy())


METHODS: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "ensemble": sgd,
    "swag": swag,
    "mean_field": mean_field,
    "laplace": laplace,
}
