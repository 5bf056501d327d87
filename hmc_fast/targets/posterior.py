"""The posterior of a torch model's parameters given data (see `base.py` for the interface)."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..arguments import positive, whole_number
from ..compute import batches
from ..compute.batches import Inputs, Part
from ..compute.device import resolve_device
from ..compute.gradient import ChainBatching, GradientPass
from ..compute.precision import Precision, arithmetic, check_precision
from ..compute.program import Path
from ..errors import UserError
from . import likelihoods, priors
from .base import Target
from .examples import Examples, as_inputs, as_tensor
from .fingerprint import constants, digest, printed, structure
from .flat_module import FlatModel
from .initial_states import reset
from .prior_density import PriorDensity
from .prior_table import segments
from .probe import check_density, generators_kept
from .reading import leaves
from .streaming import Streaming, place
from .validation import check_data, check_example, fitting_labels, labels_like, vmap_refusal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Posterior"]


class Posterior(Target):
    """The posterior of a torch model's parameters given data.

    Args:
        model: any `nn.Module` that maps inputs `(B, ...)` to outputs `(B, ...)`. It is copied, never modified.
        data: `(X, y)`, `X (N, ...)`, `y (N,)` (or what the likelihood takes): tensors, numpy arrays, data frames or
            lists, or a torch Dataset of such pairs. They are copied, unless streamed. X may be a dict of such,
            which the model takes as keyword arguments, or a tuple, as positional ones.
        likelihood: "categorical", "bernoulli", "gaussian", "heteroscedastic", an object of
            `hmc_fast.likelihoods`, or a function `(outputs, y) -> (B,)` of per-example log-likelihoods.
        prior: a family of `hmc_fast.priors`, with a variance and a mean; a torch distribution of single real
            numbers; a function of the named parameters, `{name: tensor}`, that returns their log density; or
            `PerGroup` for one per parameter group.
        temperature: T; it divides both log likelihood and log prior.
        micro_batch_size: examples per forward and backward pass; it bounds memory and affects results only by
            rounding. None: 256 for convolutions on a CPU (time of a compiled batch of 512 over that of 128
            and of 512 at once: ResNet-20 .95 and .98, LeNet-5 .96 and 1.01; half of 4,096's; 2 cores), 4,096 for
            other models there, 8,192 on a GPU.
        precision: of the gradient: "fp32", "tf32" or "bf16". Energies are always float32 per example,
            summed in float64.
        chain_batching: "vmap" evaluates all chains in one batched pass, "loop" one chain after the other,
            "streams" on parallel CUDA streams. None: "loop" for models with convolutions (batching their weights
            gives grouped convolutions, which are slow) and for models that vmap cannot handle, else "vmap";
            `hmc_fast.run` measures before a long run (`engine/execution.py`).
        device: where to sample; None: the device of the model's parameters.
        output: a function from what the model returns to the tensor that the likelihood takes; None: the tensor
            itself, its attribute or key `logits`, or the first of several.
        stream: False keeps the data in memory, on the device; True reads them as they are needed (after one pass at
            construction, which checks them), with the same draws; "auto" does so if they take more than half of the
            free memory, or change from one access to the next. Arrays are then read in place, `np.memmap` included.
        num_workers: processes that read a Dataset, as in torch's DataLoader; 0: this process, between steps. Arrays
            are read by a thread.

    Raises:
        UserError: a model without a fixed density (BatchNorm in training mode, active dropout, lazy or non-float
            parameters; outputs that are random or depend on other examples), data of mismatched shapes or with NaN
            or infinities, an example that cannot be read, or an invalid option.
    """

    holds_minibatch = False  # x and y are those of one step, `(C, B, ...)`

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        likelihood: "str | likelihoods.Likelihood | Callable[[Tensor, Tensor], Tensor]" = "categorical",
        prior: priors.AnyPrior | priors.PerGroup | None = None,
        *,
        temperature: float = 1.0,
        micro_batch_size: int | None = None,
        precision: Precision = "fp32",
        chain_batching: ChainBatching | None = None,
        device: torch.device | str | None = None,
        output: Callable[[Any], Tensor] | None = None,
        stream: Streaming = "auto",
        num_workers: int = 0,
    ) -> None:
        self.flat = FlatModel(model, None if device is None else resolve_device(device), output)
        self.num_params, self.dtype, self.device = self.flat.num_params, self.flat.dtype, self.flat.device
        self.likelihood = likelihoods.resolve(likelihood)
        prior = priors.Normal(1.0) if prior is None else prior
        self.prior, self.prior_density = segments(prior, self.flat), PriorDensity.of(prior, self.flat)
        self._given_prior, self.prior_in_words = prior, priors.in_words(prior)
        if self.prior_density is not None and not self.prior_density.can_be_sampled:
            self.default_init = "model"
        self.temperature = positive("temperature", temperature)
        check_precision(precision, self.device)
        self.precision: Precision = precision
        self.exact_gradient_pass = precision == "fp32"
        num_workers = whole_number("num_workers", num_workers, least=0)
        with generators_kept(self.device):  # from which a Dataset may draw
            self.stream, x, y = place(data, stream, num_workers, self.device, self.dtype)
        check_data(x, y)
        y = fitting_labels(self.likelihood, y)
        self.x: Inputs = batches.to(x, self.device, self.dtype)
        self.y = y.to(self.device, self.dtype if y.is_floating_point() else None)
        self.num_data = len(y)
        if self.stream is not None:  # x and y are its first examples
            self.num_data, self.stream.fit = self.stream.num_data, partial(fitting_labels, self.likelihood)
        if micro_batch_size is not None:
            micro_batch_size = whole_number("micro batch size", micro_batch_size)
        convolutional = any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
        self.micro_batch_size = micro_batch_size or _micro_batch_size(self.device, convolutional)
        self.chain_batching_given = chain_batching is not None
        self._batch_chains("loop")
        with generators_kept(self.device):
            outputs_of = partial(self.flat, self.flat.initial)
            check_example(outputs_of, self.likelihood, self.x, self.y)
            if self.stream is not None:
                check_example(outputs_of, self.likelihood, self.x, self.y, labels=self.stream.survey())
            check_density(self.flat, self.likelihood, self.x, self.y)
        if chain_batching is not None or not convolutional:
            slowly = chain_batching is not None  # the user's word stands
            self.vmap_refusal = vmap_refusal(self._log_prob, self.flat.initial, self.x, self.y, slowly=slowly)
        if chain_batching == "vmap" and self.vmap_refusal:
            raise UserError(f"vmap cannot batch this model ({self.vmap_refusal}): use chain_batching 'loop'")
        self._batch_chains(chain_batching or ("loop" if convolutional or self.vmap_refusal else "vmap"))

    def _batch_chains(self, chain_batching: ChainBatching) -> None:
        if chain_batching not in ("vmap", "loop", "streams"):
            raise UserError(f"chain_batching {chain_batching!r} is unknown: use 'vmap', 'loop' or 'streams'")
        if chain_batching == "streams" and self.device.type != "cuda":
            raise UserError(
                f"chain_batching 'streams' needs a CUDA device, not {self.device}: use 'vmap' or 'loop'"
            )
        self.chain_batching: ChainBatching = chain_batching
        # Once the compiler has fused the operations between oneDNN's convolutions, these are faster with channels
        # last in memory (ResNet-20, batches of 128, 2 cores: .61 of the time; no difference in eager mode).
        alone = self.device.type == "cpu" and chain_batching == "loop"
        self._channels_last = (
            self.compiled and alone and self.flat.allows_channels_last(batches.rows(self.x, slice(2)))
        )
        # Channels are then what fills a vector. Time of 8 lanes over that of 16, where the CPU has them: ResNet-20
        # with 8 to 32 channels .78, with 16 to 64 1.07; LeNet-5 (6 and 16) .97.
        channels = [m.out_channels for m in self.flat.module.modules() if isinstance(m, nn.modules.conv._ConvNd)]
        self._gradient = GradientPass(
            self._log_prob,
            chain_batching,
            micro_batch_size=self.micro_batch_size,
            precision=self.precision,
            half_vectors=any(number % 16 for number in channels),
        )

    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | Examples | None = None
    ) -> None:
        compiled, count = self.compiles_gradient(*log_lik.shape), log_lik.shape[1]
        own = isinstance(indices, tuple)  # a user's batch
        size = min(count, self.micro_batch_size)
        self._gradient(
            theta,
            batches.parts(*indices, size) if isinstance(indices, tuple) else self._parts(size, indices),
            grad,
            log_lik,
            shared=own or indices is None,
            scale=self.num_data / count,
            compiled=compiled and not own,
        )
        if self.prior_density is not None:
            self.prior_density.add_gradient(theta, grad)

    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        self._gradient.log_likelihood(theta, self._parts(min(self.num_data, self.micro_batch_size)), log_lik)

    def _parts(self, size: int, indices: Tensor | None = None) -> Iterable[Part]:
        """The data, or each chain's rows `indices (C, B)` of them, `size` examples at a time."""
        if self.stream is not None:
            return self.stream.in_order(size) if indices is None else self.stream.chosen(indices, size)
        if self.holds_minibatch:
            return batches.columns(self.x, self.y, size)
        return batches.parts(self.x, self.y, size, indices)

    def _log_prob(self, row: Tensor, x: Inputs, y: Tensor) -> Tensor:
        outputs = self.flat(row, x, channels_last=self._channels_last and torch.compiler.is_compiling())
        # .to: under autocast, too, log likelihoods are computed in the dtype of the parameters
        return self.likelihood.log_prob(outputs.to(self.dtype), y)

    # --- how it is computed ---

    def to(self, device: torch.device | str) -> "Self":
        device = torch.empty(0, device=device).device
        if device == self.device:
            return self
        check_precision(self.precision, device)
        moved = copy.copy(self)
        moved.flat = FlatModel(self._trainable(), device, self.flat.output)
        moved.device, moved.y = device, self.y.to(device)
        moved.x = batches.to(self.x, device, self.dtype)
        moved.stream = None if self.stream is None else self.stream.to(device)
        moved.prior = segments(self._given_prior, moved.flat)
        moved.prior_density = None if self.prior_density is None else self.prior_density.to(moved.flat)
        moved._batch_chains(self.chain_batching)
        return moved

    def _trainable(self) -> nn.Module:
        module = copy.deepcopy(self.flat.module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in self.flat.names)
        return module

    def prepared(self, *, path: Path, chain_batching: ChainBatching | None = None) -> "Self":
        """This posterior with another path and its chains batched as given (None: unchanged)."""
        other = super().prepared(path=path)
        other._batch_chains(chain_batching or self.chain_batching)
        return other

    def chain_batchings(self) -> tuple[ChainBatching, ...]:
        if self.chain_batching_given:
            return ()
        ways: tuple[ChainBatching, ...] = ("loop",) if self.vmap_refusal else ("vmap", "loop")
        return (*ways, "streams") if self.device.type == "cuda" else ways

    def architecture(self) -> tuple[Any, ...]:
        shapes = [tuple(shape) for shape in self.flat.shapes]
        return repr(self.flat.module), shapes, batches.shapes(self.x), self.precision

    def first_examples(self, count: int) -> "Self":
        return self.on_rows(range(count))

    def on_rows(self, rows: Sequence[int]) -> "Self":
        """This posterior on these rows of its data, in memory."""
        part = copy.copy(self)
        part.num_data = len(rows)
        if self.stream is not None:
            part.stream, (part.x, part.y) = None, self.stream.placed(self.stream.source.read(rows))
        else:
            chosen: Any = slice(len(rows)) if rows == range(len(rows)) else torch.tensor(rows, device=self.device)
            part.x, part.y = batches.rows(self.x, chosen), self.y[chosen]
        return part

    def on_minibatches(self, num_chains: int, batch_size: int) -> "tuple[Self, list[Tensor]]":
        bound = copy.copy(self)
        bound.stream, bound.holds_minibatch = None, True
        bound.x = batches.each(self.x, lambda t: t.new_empty(num_chains, batch_size, *t.shape[1:]))
        bound.y = self.y.new_empty(num_chains, batch_size, *self.y.shape[1:])
        return bound, leaves((bound.x, bound.y))

    def likelihood_alone(self) -> "Self":
        """Without what of the prior is part of the likelihood's gradient."""
        alone = copy.copy(self)
        alone.prior_density = None
        return alone

    def example_row(self) -> Tensor:
        return self.initial("model", 1, 0)

    def gradient_function(self) -> Callable[[Tensor], object]:
        likelihood = self._gradient.functional(batched=False, shared=True, scale=1.0)

        def gradient(row: Tensor) -> Tensor:
            grad, _ = likelihood(row, batches.rows(self.x, slice(1)), self.y[:1])
            if self.prior_density is not None:
                self.prior_density.add_gradient(row[None], grad[None])
            return grad

        return gradient

    def single_pass(self, num_chains: int, count: int) -> bool:
        one = self.chain_batching == "vmap" and count <= self.micro_batch_size and self.precision == "fp32"
        return one and self.stream is None

    @property
    def nbytes(self) -> int:
        if self.stream is not None:
            return self.stream.example_bytes * min(self.num_data, self.micro_batch_size)
        return sum(tensor.nbytes for _, tensor in batches.named(self.x)) + self.y.nbytes

    def fingerprint(self) -> dict[str, Any]:
        if self.stream is None:
            data = "".join(digest(t) for t in (*(t for _, t in batches.named(self.x)), self.y))
        else:
            data = "".join(self.stream.digests)
        density = None if self.prior_density is None else self.prior_density.fingerprint()
        is_function = isinstance(self.likelihood, likelihoods.Custom)
        return {
            "model": structure(self.flat),
            "constant weights": constants(self.flat),
            "likelihood": "a function" if is_function else printed(self.likelihood),
            **super().fingerprint(),
            "prior density": density,
            "data": data,
        }

    # --- predictions ---

    @property
    def task(self) -> likelihoods.Task:
        return self.likelihood.task

    @property
    def predicts_softmax(self) -> bool:  # a subclass of Categorical may predict otherwise
        return type(self.likelihood) is likelihoods.Categorical

    def inputs(self, x: Any) -> Any:
        return self._like_the_data(as_inputs(x, "the test inputs"), "test inputs")

    def _like_the_data(self, x: Inputs, name: str) -> Any:
        found, expected = batches.shapes(x), batches.shapes(self.x)
        if found != expected:
            raise UserError(f"{name} have shape {found} per example, but the training inputs have {expected}")
        return batches.to(x, self.device, self.dtype)

    def labels(self, y: Any, num_inputs: int) -> Tensor:
        y = fitting_labels(self.likelihood, as_tensor(y, "the test labels"))
        if len(y) != num_inputs:
            raise UserError(f"there are {num_inputs} test inputs but {len(y)} test labels: the numbers must match")
        return y.to(self.device)

    def examples(self, x: Any, y: Any) -> Examples:
        x, y = as_inputs(x, "the batch's X"), as_tensor(y, "the batch's y")
        check_data(x, y)
        x = self._like_the_data(x, "the batch's inputs")
        y = labels_like(fitting_labels(self.likelihood, y), self.y)
        check_example(lambda inputs: self.flat(self.flat.initial, inputs), self.likelihood, x, y)
        return x, y

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        with torch.no_grad(), arithmetic("fp32", self.device):
            if self.chain_batching == "vmap":
                return torch.func.vmap(self.flat, in_dims=(0, None))(theta, x)
            return torch.stack([self.flat(row, x) for row in theta])

    def logits(self, theta: Tensor, x: Inputs) -> Tensor:
        return torch.cat([self.outputs(theta, chunk) for chunk in batches.chunks(x, self.micro_batch_size)], dim=1)

    def predict(self, theta: Tensor, x: Inputs, *, batch_size: int | None = None) -> Tensor:
        parts = []
        for chunk in batches.chunks(x, batch_size or self.micro_batch_size):
            outputs = self.outputs(theta, chunk)
            parts.append(torch.func.vmap(self.likelihood.predict)(outputs))
        return torch.cat(parts, dim=1)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shape) for name, shape in zip(self.flat.names, self.flat.shapes, strict=True)}

    # --- initial states ---

    def initial(self, init: Any, num_chains: int, seed: int) -> Tensor:
        if isinstance(init, Mapping):
            init = self.flat.flatten(init)
        if isinstance(init, str) and init == "default":
            init = self.default_init
        if isinstance(init, str) and init == "model":
            return self.flat.initial.to(self.device).expand(num_chains, self.num_params).clone()
        if isinstance(init, str) and init == "fresh":
            rows = (self.flat.flatten(reset(self._trainable().cpu(), seed, chain)) for chain in range(num_chains))
            return torch.stack(list(rows))
        return super().initial(init, num_chains, seed)


def _micro_batch_size(device: torch.device, convolutional: bool) -> int:
    if device.type != "cpu":
        return 8192
    return 256 if convolutional else 4096
