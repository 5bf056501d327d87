"""Priors without a kernel, by autograd: torch distributions, element by element, and functions of named parameters.

Their gradient is added to that of the likelihood, and their elements are flat in the kernels' table. Log densities
are float64 where the function takes it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints

from ..compute.random_streams import INITIAL
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from .flat_module import FlatModel
from .priors import Prior, in_words, owners
from .probe import generators_kept

__all__ = ["PriorDensity"]


@dataclass(frozen=True)
class _Part:
    """A distribution or a function, and the parameters that have it. place: how a message calls it."""

    place: str
    prior: Any
    names: tuple[str, ...]

    def log_prob(self, views: dict[str, Tensor]) -> Tensor:
        own = {name: views[name] for name in self.names}
        if not isinstance(self.prior, Distribution):
            return self.prior(own)
        if self.prior.batch_shape:
            return torch.stack([self.prior.log_prob(view).sum() for view in own.values()]).sum()
        return self.prior.log_prob(torch.cat([view.reshape(-1) for view in own.values()])).sum()


class PriorDensity:
    """The part of a prior that is no family of the kernels.

    Raises:
        UserError: of a distribution, events or a support that are not single real numbers, or a batch shape that is
            no parameter's; of a function, a value that is no scalar, not finite, random or without a gradient.
    """

    def __init__(self, parts: Sequence[_Part], flat: FlatModel) -> None:
        self._parts, self._flat = parts, flat
        self._check(flat)

    def _check(self, flat: FlatModel) -> None:
        """Also finds out whether vmap and float64 work."""
        noise = torch.randn(flat.num_params, generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
        row = flat.initial + 0.1 * noise.to(flat.device)  # where a parameter that begins at 0 would hide something
        with generators_kept(flat.device), _unvalidated():
            for part in self._parts:
                if isinstance(part.prior, Distribution):
                    _check_distribution(part, flat)
                _check_value(part, flat, row)
            self._vmap = _works(lambda: self._gradients(torch.stack((row, row)), vmap=True))
            self._double = _works(lambda: self._log_prob(row.double()))

    @classmethod
    def of(cls, prior: object, flat: FlatModel) -> "PriorDensity | None":
        """The part of `prior` that is no family; None if all of it is."""
        parts = [
            _Part(
                f"the prior of {name!r}" if name != "the model" else "the prior",
                _moved(group, flat.device),
                tuple(flat.names[index] for index in own),
            )
            for name, group, own in owners(prior, flat)
            if not isinstance(group, Prior)
        ]
        return cls(parts, flat) if parts else None

    def to(self, flat: FlatModel) -> "PriorDensity":
        """This density of the same model on another device."""
        moved = copy.copy(self)
        moved._flat = flat
        moved._parts = [replace(part, prior=_moved(part.prior, flat.device)) for part in self._parts]
        for part in moved._parts:
            _value(part, flat, flat.initial)
        return moved

    @property
    def can_be_sampled(self) -> bool:
        return all(isinstance(part.prior, Distribution) for part in self._parts)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log density at `theta (C, D)`, float64 `(C,)`."""
        theta = theta.double() if self._double else theta
        with torch.no_grad(), _unvalidated():
            if self._vmap:
                return torch.func.vmap(self._log_prob)(theta).double()
            return torch.stack([self._log_prob(row) for row in theta]).double()

    def difference(self, theta: Tensor, new_theta: Tensor) -> Tensor:
        """log p(new_theta) - log p(theta), float64 `(C,)`."""
        return self.log_prob(new_theta) - self.log_prob(theta)

    def add_gradient(self, theta: Tensor, grad: Tensor) -> None:
        """Adds the gradient of the log density at `theta (C, D)` to `grad`."""
        with _unvalidated():
            grad.add_(self._gradients(theta, vmap=self._vmap))

    def fill(self, rows: Tensor, seed: int) -> None:
        """Writes draws into the elements of `rows (C, D)` that have such a prior. A chain's depend on the seed and
        its number alone.

        Raises:
            UserError: a function, which cannot be drawn from.
        """
        for part in self._parts:
            if not isinstance(part.prior, Distribution):
                raise UserError(
                    f"{part.place} is a {in_words(part.prior)}, from which no initial state can be drawn: use "
                    "init='model', or a tensor of shape (chains, parameters)"
                )
        high, low, *_ = ops.philox(Counter(seed, INITIAL, torch.ones(1, dtype=torch.int64)), len(rows), 1)
        with torch.random.fork_rng(devices=[]):
            for row, chain_seed in zip(rows, (high << 30 ^ low).flatten().tolist(), strict=True):
                torch.default_generator.manual_seed(chain_seed)
                views = self._flat.views(row)
                for part in self._parts:
                    prior = _moved(part.prior, torch.device("cpu"))
                    for name in part.names:
                        drawn = prior.sample(() if prior.batch_shape else views[name].shape)
                        views[name].copy_(drawn)

    def fingerprint(self) -> list[float]:
        """Log densities at a few points that depend on nothing: what else could tell functions apart?"""
        step = torch.zeros(1, dtype=torch.int64, device=self._flat.device)
        points = 4 * ops.uniforms(Counter(0, INITIAL, step), 4, self._flat.num_params, impl="torch") - 2
        return self.log_prob(torch.cat((points, 0.1 * points)).to(self._flat.dtype)).tolist()

    def _log_prob(self, row: Tensor) -> Tensor:
        views = self._flat.views(row)
        return torch.stack([part.log_prob(views).reshape(()) for part in self._parts]).sum()

    def _gradients(self, theta: Tensor, *, vmap: bool) -> Tensor:
        gradient = torch.func.grad(self._log_prob)
        return torch.func.vmap(gradient)(theta) if vmap else torch.stack([gradient(row) for row in theta])


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Distributions read values back to validate them, which vmap, recordings and graphs cannot contain."""
    if torch.compiler.is_dynamo_compiling():  # which traces no such flag
        yield
        return
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _works(function: Callable[[], object]) -> bool:
    """Whether it raises nothing; torch's own refusals are RuntimeErrors."""
    try:
        with torch.no_grad():
            function()
    except RuntimeError:
        return False
    return True


def _moved(value: Any, device: torch.device) -> Any:
    """A distribution or transform with every tensor that it holds on `device`."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value) if type(value) in (list, tuple) else value
    if not isinstance(value, Distribution | Transform):
        return value
    moved = copy.copy(value)
    moved.__dict__.update({name: _moved(item, device) for name, item in vars(value).items()})
    if isinstance(moved, Distribution):
        moved._validate_args = False  # see `_unvalidated`
    return moved


# --- what a user gives ---


def _check_distribution(part: _Part, flat: FlatModel) -> None:
    prior, name = part.prior, type(part.prior).__name__
    if prior.event_shape:
        raise UserError(
            f"{part.place}, {name}, has events of shape {tuple(prior.event_shape)}: give a distribution of single "
            "numbers, or a function of named parameters"
        )
    try:
        support = prior.support
    except NotImplementedError:
        support = constraints.real
    support = getattr(support, "base_constraint", support)  # of a mixture
    if not isinstance(support, type(constraints.real)):
        raise UserError(
            f"{part.place}, {name}, has support {str(support).rstrip('()')}, but a parameter can be any real "
            "number: give a distribution over the real line, or transform the parameter in the model"
        )
    for parameter in part.names:
        shape = tuple(flat.shapes[flat.names.index(parameter)])
        if prior.batch_shape and tuple(prior.batch_shape) != shape:
            raise UserError(
                f"{part.place}, {name}, has batch shape {tuple(prior.batch_shape)}, but parameter {parameter!r} "
                f"has {shape}: give that shape, or single numbers, the same for every element"
            )


def _value(part: _Part, flat: FlatModel, row: Tensor) -> Any:
    """Whatever the prior returns. Raises UserError if it raises anything."""
    try:
        with torch.enable_grad(), _unvalidated():
            return part.log_prob(flat.views(row))
    except Exception as error:  # of the user's own code
        shapes = ", ".join(f"{name!r} {tuple(flat.shapes[flat.names.index(name)])}" for name in part.names[:4])
        shapes += ", ..." if len(part.names) > 4 else ""
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        raise UserError(f"{part.place} fails on the parameters {shapes} on {flat.device}: {reason}") from error


def _check_value(part: _Part, flat: FlatModel, row: Tensor) -> None:
    row = row.clone().requires_grad_()
    value, again = (_value(part, flat, row) for _ in range(2))
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"{part.place} returned {got}: it must return one log density, a scalar tensor (.sum())")
    if not value.requires_grad:
        raise UserError(
            f"{part.place} has no gradient: compute the log density from the parameters with torch operations, and "
            "do not detach"
        )
    if not bool(torch.isfinite(value)):
        raise UserError(
            f"{part.place} has log density {value.item():g} near the model's own values: it must be finite for all "
            "real parameters"
        )
    if not torch.equal(value, again):
        raise UserError(f"{part.place} gives another log density for the same parameters: it must not be random")
