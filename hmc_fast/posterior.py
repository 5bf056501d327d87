"""What is sampled: the posterior of a model, or a bare log density.

    U(w) = -[ sum_i log p(y_i | x_i, w) + log p(w) ] / T

Log densities rise uphill and are *sums* over the data, never means. The likelihood's gradient is computed
here, by autograd; the prior's is added by the kernels in the pass that updates the momentum, which is why a
target hands out the prior as a table.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from . import likelihoods, priors
from .errors import UserError
from .flat import FlatModel
from .kernels import ops
from .kernels.ops import Counter, Segment
from .precision import Precision, check_precision, scope
from .streams import COMPONENT, INITIAL

__all__ = ["Density", "Posterior", "Target"]


class Target(ABC):
    """A density over rows of a flat buffer, as samplers see it.

    Attributes:
        num_params: D. num_data: N, terms that the log likelihood sums (1 for a bare density).
        prior: segment table covering 0..D. temperature: T.
        exact_gradient_pass: whether the pass that yields the gradient also yields exact log likelihoods.
    """

    num_params: int
    num_data: int
    prior: tuple[Segment, ...]
    temperature: float
    dtype: torch.dtype
    device: torch.device
    exact_gradient_pass: bool = True

    @abstractmethod
    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | None = None
    ) -> None:
        """Writes the log likelihood's gradient and the log likelihood of each example.

        Args:
            theta: `(C, D)`. grad: `(C, D)`, overwritten with the gradient of the sum over all N examples,
                or of N/B times the sum over a batch.
            log_lik: `(C, N)` or `(C, B)`, overwritten, never scaled.
            indices: `(C, B)` int64 rows of the data for each chain; None is the full data.
        """

    @abstractmethod
    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        """Writes the exact log likelihood of each example, `(C, N)`; no gradient."""

    def log_prior(self, theta: Tensor) -> Tensor:
        """Log prior density, float64 `(C,)`."""
        return ops.log_prior(theta, self.prior)

    def potential_and_grad(self, theta: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """U, float64 `(C,)`, and its gradient `(C, D)`, prior and temperature included."""
        count = self.num_data if indices is None else indices.shape[1]
        log_lik = theta.new_empty(theta.shape[0], count)
        grad = torch.empty_like(theta)
        self.log_likelihood_and_grad(theta, grad, log_lik, indices)
        log_density = log_lik.double().sum(1) * (self.num_data / count) + self.log_prior(theta)
        # One kick with unit step from rest is the gradient of log density over T, as the samplers see it.
        force = torch.zeros_like(theta)
        hyper = torch.tensor([[1.0, 1 / self.temperature, 0.0, 0.0]], device=self.device)
        ops.kick(force, grad, theta, self.prior, hyper.repeat(len(theta), 1))
        return -log_density / self.temperature, -force

    def initial(self, init: "str | Tensor", num_chains: int, seed: int) -> Tensor:
        """Where the chains begin, `(C, D)`: "prior" draws, "model" (the module's own values for every
        chain), or a tensor `(D,)` or `(C, D)`.

        Raises:
            UserError: an unknown name, a wrong shape, or values that are not finite.
        """
        if isinstance(init, Tensor):
            if init.shape not in ((self.num_params,), (num_chains, self.num_params)):
                raise UserError(
                    f"init has shape {tuple(init.shape)}: it must be ({self.num_params},) or "
                    f"({num_chains}, {self.num_params}), that is (parameters,) or (chains, parameters)"
                )
            if not bool(torch.isfinite(init).all()):
                raise UserError("init holds NaN or infinite values: chains must begin at finite parameters")
            rows = init.to(self.device, self.dtype)
            return rows.expand(num_chains, self.num_params).clone()
        if init == "prior":
            step = torch.zeros(1, dtype=torch.int64)
            uniform = ops.uniforms(Counter(seed, INITIAL, step), num_chains, self.num_params)
            second = ops.uniforms(Counter(seed, COMPONENT, step), num_chains, self.num_params)
            return priors.sample(self.prior, uniform, second).to(self.device, self.dtype)
        raise UserError(f"init {init!r} is unknown: use 'prior', 'model' or a tensor")


class Posterior(Target):
    """The posterior of a torch model's parameters given data.

    Args:
        model: any `nn.Module` from inputs `(B, ...)` to outputs `(B, ...)`. It is copied, never changed.
        data: `(X, y)`, `X (N, ...)` float, `y (N,)` (or what the likelihood takes).
        likelihood: "categorical", "bernoulli", "gaussian", "heteroscedastic", an object of
            `hmc_fast.likelihoods`, or a function `(outputs, y) -> (B,)` of per-example log-likelihoods.
        prior: a prior of `hmc_fast.priors`, or `PerGroup` for one per parameter group.
        temperature: T; likelihood and prior are both divided by it.
        micro_batch_size: examples per forward and backward pass; it bounds memory and changes results by
            rounding alone. None: 512 for convolutions on a CPU, where activations should stay in cache
            (LeNet-5 at 512: half the time of 4,096, 2 cores), 4,096 for other models there, 8,192 on a GPU.
        precision: of the gradient: "fp32", "tf32" or "bf16". Energies are always float32 per example,
            summed in float64.
        chain_batching: "vmap" evaluates all chains in one batched pass, "loop" one chain after the other.
            None: "loop" for models with convolutions (batching their weights makes grouped convolutions,
            which are slow), else "vmap".
        device: where to sample; None: where the model's parameters are.

    Raises:
        UserError: a model whose density is not fixed (BatchNorm in training mode, active dropout, lazy or
            non-float parameters), data that do not fit together or hold NaN or infinities, or a bad option.
    """

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        likelihood: "str | likelihoods.Likelihood | Callable[[Tensor, Tensor], Tensor]" = "categorical",
        prior: priors.Prior | priors.PerGroup | None = None,
        *,
        temperature: float = 1.0,
        micro_batch_size: int | None = None,
        precision: Precision = "fp32",
        chain_batching: Literal["vmap", "loop"] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.flat = FlatModel(model, device)
        self.num_params, self.dtype, self.device = self.flat.num_params, self.flat.dtype, self.flat.device
        self.likelihood = likelihoods.resolve(likelihood)
        self.prior = priors.segments(prior if prior is not None else priors.Normal(1.0), self.flat)
        self.temperature = _positive("temperature", temperature)
        check_precision(precision, self.device)
        self.precision: Precision = precision
        self.exact_gradient_pass = precision == "fp32"
        x, y = data
        _check_data(x, y)
        self.x = x.to(self.device, self.dtype if x.is_floating_point() else None)
        self.y = y.to(self.device, self.dtype if y.is_floating_point() else None)
        self.num_data = len(x)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(f"micro batch size {micro_batch_size} must be at least 1")
        convolutional = any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
        self.micro_batch_size = micro_batch_size or _micro_batch_size(self.device, convolutional)
        self.chain_batching = chain_batching or ("loop" if convolutional else "vmap")
        if self.chain_batching not in ("vmap", "loop"):
            raise UserError(f"chain_batching {chain_batching!r} is unknown: use 'vmap' or 'loop'")
        _check_forward(self)

    def to(self, device: torch.device | str) -> "Posterior":
        """This posterior on another device; itself if it is there already."""
        device = torch.empty(0, device=device).device
        if device == self.device:
            return self
        check_precision(self.precision, device)
        moved = copy.copy(self)
        moved.flat = FlatModel(self._trainable(), device)
        moved.device, moved.x, moved.y = device, self.x.to(device), self.y.to(device)
        moved.prior = tuple(_move(segment, device) for segment in self.prior)
        return moved

    def _trainable(self) -> nn.Module:
        module = copy.deepcopy(self.flat.module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in self.flat.names)
        return module

    def initial(self, init: "str | Tensor", num_chains: int, seed: int) -> Tensor:
        if isinstance(init, str) and init == "model":
            return self.flat.initial.to(self.device).expand(num_chains, self.num_params).clone()
        return super().initial(init, num_chains, seed)

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """Model outputs `(C, B, ...)` of every chain at the inputs `x (B, ...)`; exact arithmetic."""
        with torch.no_grad(), scope("fp32", self.device):
            if self.chain_batching == "vmap":
                return torch.func.vmap(self.flat, in_dims=(0, None))(theta, x)
            return torch.stack([self.flat(row, x) for row in theta])

    def predict(self, theta: Tensor, x: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Predictions `(C, T, K)` of every chain: what `likelihood.predict` makes of the outputs.

        batch_size: inputs per pass; None: `micro_batch_size`.
        """
        parts = []
        for chunk in x.split(batch_size or self.micro_batch_size):
            outputs = self.outputs(theta, chunk)
            parts.append(torch.func.vmap(self.likelihood.predict)(outputs))
        return torch.cat(parts, dim=1)

    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | None = None
    ) -> None:
        count = self.num_data if indices is None else indices.shape[1]
        with scope(self.precision, self.device):
            for start in range(0, count, self.micro_batch_size):
                part = slice(start, min(start + self.micro_batch_size, count))
                self._accumulate(theta, grad, log_lik, part, indices)
        if indices is not None:
            grad.mul_(self.num_data / count)

    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        with torch.no_grad(), scope("fp32", self.device):
            for start in range(0, self.num_data, self.micro_batch_size):
                part = slice(start, start + self.micro_batch_size)
                x, y = self.x[part], self.y[part]
                if self.chain_batching == "vmap":
                    log_lik[:, part] = torch.func.vmap(self._log_prob, in_dims=(0, None, None))(theta, x, y)
                else:
                    for chain, row in enumerate(theta):
                        log_lik[chain, part] = self._log_prob(row, x, y)

    def _log_prob(self, row: Tensor, x: Tensor, y: Tensor) -> Tensor:
        # .to: under autocast the loss must still be summed in the buffer's precision
        return self.likelihood.log_prob(self.flat(row, x).to(self.dtype), y)

    def _accumulate(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, part: slice, indices: Tensor | None
    ) -> None:
        """Adds one micro-batch to `grad`; the first one overwrites it."""

        def add(chains: slice | int, rows: Tensor, values: Tensor) -> None:
            (gradient,) = torch.autograd.grad(values.sum(), rows)
            log_lik[chains, part] = values.detach()
            if part.start == 0:
                grad[chains].copy_(gradient)
            else:
                grad[chains].add_(gradient)

        if self.chain_batching == "vmap":
            rows = theta.detach().requires_grad_()
            if indices is None:
                batched = torch.func.vmap(self._log_prob, in_dims=(0, None, None))
                add(slice(None), rows, batched(rows, self.x[part], self.y[part]))
            else:
                x, y = self.x[indices[:, part]], self.y[indices[:, part]]  # (C, B, ...)
                add(slice(None), rows, torch.func.vmap(self._log_prob)(rows, x, y))
            return
        for chain in range(theta.shape[0]):
            chosen = part if indices is None else indices[chain, part]
            row = theta[chain].detach().requires_grad_()
            add(chain, row, self._log_prob(row, self.x[chosen], self.y[chosen]))


class Density(Target):
    """A bare log density `fn(theta: (D,)) -> scalar`, up to a constant, vectorised over chains.

    Its energy is one number per chain, exact to the dtype: use float64 where log densities are large.

    Raises:
        UserError: a dimension under 1, a temperature that is not positive, or a function that does not
            return a scalar.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        dim: int,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if dim < 1:
            raise UserError(f"dim {dim} must be at least 1")
        self.fn, self.num_params, self.num_data = fn, dim, 1
        self.prior = (Segment(0, dim, ops.FLAT),)
        self.temperature = _positive("temperature", temperature)
        self.dtype, self.device = dtype, torch.device(device)
        value = fn(torch.zeros(dim, dtype=dtype, device=device))
        if not isinstance(value, Tensor) or value.shape != ():
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"the log density returned {got} for one point: it must return a scalar tensor")

    def to(self, device: torch.device | str) -> "Density":
        """This density on another device: `fn` must follow its argument's device."""
        return Density(self.fn, self.num_params, temperature=self.temperature, dtype=self.dtype, device=device)

    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | None = None
    ) -> None:
        gradient, value = torch.func.vmap(torch.func.grad_and_value(self.fn))(theta)
        grad.copy_(gradient)
        log_lik[:, 0] = value

    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        log_lik[:, 0] = torch.func.vmap(self.fn)(theta)


def _micro_batch_size(device: torch.device, convolutional: bool) -> int:
    if device.type != "cpu":
        return 8192
    return 512 if convolutional else 4096


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} {value} must be a positive number")
    return value


def _move(segment: Segment, device: torch.device) -> Segment:
    if isinstance(segment.scale, Tensor):
        return Segment(segment.start, segment.stop, segment.family, segment.scale.to(device), segment.shape)
    return segment


def _check_data(x: Tensor, y: Tensor) -> None:
    if len(x) == 0:
        raise UserError("the data are empty: X must hold at least one example")
    if len(x) != len(y):
        raise UserError(f"X holds {len(x)} examples and y {len(y)}: they must be as many")
    for name, values in (("X", x), ("y", y)):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            row = int(torch.nonzero(~torch.isfinite(values).flatten(1 if values.ndim > 1 else 0))[0, 0])
            raise UserError(f"{name} holds NaN or an infinity in row {row}: remove or impute it")


def _check_forward(posterior: Posterior) -> None:
    """One example through the model and the likelihood, so that a shape that does not fit shows here."""
    x, y = posterior.x[:1], posterior.y[:1]
    try:
        value = posterior._log_prob(posterior.flat.initial, x, y)
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the model does not take an example of shape {tuple(x.shape)} with the likelihood "
            f"{type(posterior.likelihood).__name__}: {reason}"
        ) from error
    if value.shape != (1,):
        raise UserError(
            f"the likelihood gave shape {tuple(value.shape)} for one example: it must give one log-likelihood "
            "per example, (B,)"
        )
    if isinstance(posterior.likelihood, likelihoods.Categorical):
        classes = posterior.flat(posterior.flat.initial, x).shape[-1]
        if posterior.y.is_floating_point() or int(posterior.y.min()) < 0 or int(posterior.y.max()) >= classes:
            raise UserError(
                f"labels must be integers in 0..{classes - 1}, the model's classes; y holds "
                f"{posterior.y.min().item()}..{posterior.y.max().item()} ({posterior.y.dtype})"
            )
