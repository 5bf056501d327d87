"""Priors over parameters: families with a given variance and mean, optionally one per parameter group.

Families are parametrised by variance, so that they can be compared at equal variance, as in Izmailov et al. 2021
(arXiv:2104.14421, sec. 6.3), and become the table that the kernels read (`prior_table.py`). What is no family, a
torch distribution or a function of the parameters, is left to autograd (`prior_density.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ..arguments import positive
from ..errors import UserError
from ..kernels import ops
from .flat_module import FlatModel
from .prior_means import copied_mean, mean_in_words

__all__ = [
    "AnyPrior",
    "Laplace",
    "Logistic",
    "Mixture",
    "Normal",
    "PerGroup",
    "Prior",
    "StudentT",
    "in_words",
    "owners",
    "suggested_trajectory_length",
]


@dataclass(frozen=True, eq=False, repr=False)
class Prior:
    """Base class: independent elements with the given variance and mean.

    Args:
        mean: a number; a tensor of one value per element, in the shape of the one parameter that has this prior or
            `(D,)` as a draw has; or, by parameter name, a `state_dict()` or the module itself: a network trained on
            another task, for example. None: 0. It is copied.

    Raises:
        UserError: a variance that is not positive and finite, or a mean that is none of these or not finite.
    """

    variance: float = 1.0
    mean: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        positive("prior variance", self.variance)
        object.__setattr__(self, "mean", copied_mean(self.mean))

    def __repr__(self) -> str:
        shown = [(item.name, getattr(self, item.name)) for item in fields(self)]
        words = [f"{name}={mean_in_words(v) if name == 'mean' else v}" for name, v in shown if v is not None]
        return f"{type(self).__name__}({', '.join(words)})"

    def family(self) -> int:
        raise NotImplementedError

    def scale(self) -> float:
        """The scale s of the family at this variance."""
        raise NotImplementedError

    def shape(self) -> tuple[float, float]:
        return (0.0, 0.0)


class Normal(Prior):
    """N(mean, variance)."""

    def family(self) -> int:
        return ops.NORMAL

    def scale(self) -> float:
        return math.sqrt(self.variance)


class Laplace(Prior):
    """Density exp(-|x - mean|/s) / 2s, variance 2 s^2."""

    def family(self) -> int:
        return ops.LAPLACE

    def scale(self) -> float:
        return math.sqrt(self.variance / 2)


class Logistic(Prior):
    """Logistic, variance (pi s)^2 / 3."""

    def family(self) -> int:
        return ops.LOGISTIC

    def scale(self) -> float:
        return math.sqrt(3 * self.variance) / math.pi


@dataclass(frozen=True, eq=False, repr=False)
class StudentT(Prior):
    """Student-t with `degrees_of_freedom` nu > 2, variance s^2 nu / (nu - 2)."""

    degrees_of_freedom: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not positive("degrees of freedom", self.degrees_of_freedom) > 2:
            raise UserError(
                f"degrees of freedom {self.degrees_of_freedom} give an infinite variance: use more than 2"
            )

    def family(self) -> int:
        return ops.STUDENT_T

    def scale(self) -> float:
        return math.sqrt(self.variance * (self.degrees_of_freedom - 2) / self.degrees_of_freedom)

    def shape(self) -> tuple[float, float]:
        return (self.degrees_of_freedom, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(Prior):
    """Scale mixture `weight` N(0, s^2) + (1 - weight) N(0, (ratio s)^2) with the given total variance.

    The defaults, equal weights and a scale ratio of 1/10, are arbitrary.
    """

    weight: float = 0.5
    ratio: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.weight < 1:
            raise UserError(f"mixture weight {self.weight} must lie strictly between 0 and 1")
        positive("mixture ratio", self.ratio)

    def family(self) -> int:
        return ops.MIXTURE

    def scale(self) -> float:
        return math.sqrt(self.variance / (self.weight + (1 - self.weight) * self.ratio**2))

    def shape(self) -> tuple[float, float]:
        return (self.weight, self.ratio)


AnyPrior = Prior | Distribution | Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class PerGroup:
    """Priors by parameter name: `PerGroup({"*.bias": Normal(1.0)}, default=Normal(0.1))`.

    Keys are shell patterns over `model.named_parameters()`; the first match applies. With `fan_in=True` each
    variance is divided by the fan-in of the weight (vectors: by 1). A function gets the parameters of its group.
    """

    groups: Mapping[str, AnyPrior] = field(default_factory=dict)
    default: AnyPrior = field(default_factory=Normal)
    fan_in: bool = False


def owners(prior: object, flat: FlatModel) -> list[tuple[str, AnyPrior, list[int]]]:
    """Name, prior and parameters (positions in `flat.names`) of every group that has any.

    Raises:
        UserError: what is no prior, or a pattern that matches no parameter.
    """
    if not isinstance(prior, PerGroup):
        return [("the model", _checked(prior, "prior"), list(range(len(flat.names))))]
    if not isinstance(prior.groups, Mapping) or not all(isinstance(pattern, str) for pattern in prior.groups):
        raise UserError('PerGroup takes a dict from patterns of names to priors: PerGroup({"*.bias": Normal(1.0)})')
    found = [
        (pattern, _checked(group, f"the prior of {pattern!r}"), set(flat.matching(pattern)))
        for pattern, group in prior.groups.items()
    ]
    found.append(("all others", _checked(prior.default, "the default prior"), set(range(len(flat.names)))))
    taken: set[int] = set()
    groups = []
    for name, group, matched in found:
        if own := sorted(matched - taken):
            groups.append((name, group, own))
        taken |= matched
    for name, group, _ in groups:
        if prior.fan_in and not isinstance(group, Prior):
            raise UserError(
                f"fan_in=True divides variances, and the prior of {name!r} ({in_words(group)}) has none to divide: "
                "leave fan_in out, or use a family such as Normal there"
            )
    return groups


def in_words(prior: object) -> str:
    """A prior in words, for a run's settings."""
    if isinstance(prior, PerGroup):
        words = [f"{pattern}: {in_words(group)}" for pattern, group in prior.groups.items()]
        return "; ".join([*words, f"all others: {in_words(prior.default)}"]) + "; over fan-in" * prior.fan_in
    if isinstance(prior, Prior):
        return repr(prior)
    if isinstance(prior, Distribution):
        return f"torch.distributions: {' '.join(repr(prior).split())[:200]}"
    return f"function {getattr(prior, '__name__', type(prior).__name__)}"


def _checked(prior: Any, place: str) -> AnyPrior:
    if isinstance(prior, Prior | Distribution):
        return prior
    if isinstance(prior, type):
        raise UserError(f"{place} is the class {prior.__name__}: give an object, {prior.__name__}(...)")
    if callable(prior):
        return prior
    cure = (
        "a PerGroup of several" if not isinstance(prior, Mapping) else "PerGroup({...}) for one per parameter group"
    )
    raise UserError(
        f"{place} is a {type(prior).__name__}: give one such as hmc_fast.Normal(variance=0.1), a "
        f"torch.distributions object, a function of named parameters, or {cure}"
    )


def suggested_trajectory_length(variance: float) -> float:
    """pi/2 standard deviations of the prior: a quarter of the period of Hamiltonian motion under the prior alone,
    so the directions least constrained by the data decorrelate (Izmailov et al. 2021, sec. 3.2)."""
    return 0.5 * math.pi * math.sqrt(variance)
