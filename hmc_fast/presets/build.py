"""Carries out a run specification: data, posterior, initial states and sampling."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import whole_number
from ..compute.device import free_memory, human, resolve_device
from ..datasets import Dataset, load
from ..engine.ensemble import Training
from ..engine.runner import run
from ..errors import UserError
from ..models import build
from ..models.training import load_weights
from ..results.run import Run
from ..results.run_folder import describe_environment
from ..targets import priors
from ..targets.flat_module import FlatModel
from ..targets.posterior import Posterior
from .settings import TRAINING_FLAGS, SampleSettings
from .table import RunSpecification

__all__ = ["draw", "make_dataset", "make_posterior"]

_SWITCH: dict[str, Any] = {"auto": "auto", "on": True, "off": False}
_PRIORS: dict[str, type[priors.Prior]] = {
    "normal": priors.Normal,
    "laplace": priors.Laplace,
    "logistic": priors.Logistic,
    "student_t": priors.StudentT,
    "mixture": priors.Mixture,
}


def draw(specification: RunSpecification, directory: Path, dataset: Dataset) -> Run:
    """Samples as specified; writes draws, trace and checkpoint to `directory`."""
    settings = specification.settings
    device = resolve_device(settings.device)
    posterior, init = make_posterior(settings, dataset, device)
    config = {**specification.flat(), "out": directory, "resume": False}
    return run(
        posterior,
        specification.sampler,
        chains=settings.chains,
        burn_in=settings.burn_in,
        draws=settings.draws,
        thin=settings.thin,
        seed=settings.seed,
        init=init,
        test=(dataset.x_test, dataset.y_test),
        draw_dtype="auto" if settings.draw_dtype == "auto" else getattr(torch, settings.draw_dtype),
        capacity=settings.capacity,
        out=directory,
        resume=settings.resume,
        checkpoint_seconds=settings.checkpoint_seconds,
        config=config | describe_environment(device),
        compile=_SWITCH[settings.compile],
        graph=_SWITCH[settings.graph],
        kernels=settings.kernels,
        profile=settings.profile,
        progress=settings.progress,
    )


def make_dataset(settings: SampleSettings) -> Dataset:
    """The data set, reduced to `train_size` training examples."""
    dataset = load(settings.data, settings.data_dir, split=settings.split)
    if settings.train_size < 0:
        raise UserError(f"--train-size {settings.train_size} must be positive, or 0 for all examples")
    return dataset.subset(settings.train_size) if settings.train_size else dataset


def make_posterior(
    settings: SampleSettings, dataset: Dataset, device: torch.device
) -> tuple[Posterior, "str | Tensor | Training"]:
    """The posterior, and the chains' initial states (for "model" and "train": from one fresh network per chain)."""

    def fresh(seed: int) -> torch.nn.Module:
        return build(
            settings.model,
            dataset,
            width=settings.width,
            activation=settings.activation,
            norm=settings.norm,
            seed=seed,
        )

    model, chains = fresh(settings.seed), settings.chains
    init: str | Tensor | Training = settings.init
    _check_chains(chains, sum(weight.numel() for weight in model.parameters()), device)
    if settings.init in ("model", "train"):
        rows = [FlatModel(fresh((settings.seed * chains + chain) % 2**63)).initial for chain in range(chains)]
        init = torch.stack(rows)
        if settings.init == "train":
            values = {name: getattr(settings, flag) for flag, name in TRAINING_FLAGS.items()}
            init = Training(**values, start=init)
    elif init != "prior":
        load_weights(Path(settings.init), model)
        init = "model"
    posterior = Posterior(
        model,
        (dataset.x_train, dataset.y_train),
        likelihood="categorical" if dataset.task == "classification" else _regression_likelihood(model, dataset),
        prior=_PRIORS[settings.prior](settings.prior_variance),
        temperature=settings.temperature,
        micro_batch_size=settings.micro_batch_size,
        precision=settings.precision,
        chain_batching=None if settings.chain_batching == "auto" else settings.chain_batching,
        device=device,
    )
    return posterior, init


def _check_chains(chains: int, num_params: int, device: torch.device) -> None:
    """Refuses chains whose parameters, momenta, gradients and proposals do not fit into memory."""
    needed, free = 4 * 4 * whole_number("chains", chains) * num_params, free_memory(device)
    if needed > free:
        raise UserError(
            f"chains {chains} of {num_params:,} parameters take at least {human(needed)}, and {device} has "
            f"{human(free)} free: use fewer chains or a smaller model"
        )


def _regression_likelihood(model: torch.nn.Module, dataset: Dataset) -> str:
    """Two outputs are a mean and a raw standard deviation; one output is a mean with unit noise."""
    flat = FlatModel(model)  # rejects a model that cannot be sampled before calling it
    width = flat(flat.initial, dataset.x_train[:1]).numel()
    return "heteroscedastic" if width == 2 else "gaussian"
