"""Zero-mean priors over parameters, each with a given variance, optionally one per parameter group.

A prior becomes the segment table that the kernels read (`kernels/prior.py`); they compute its gradient in the same
pass as the update. Priors are parametrised by variance so that families can be compared at equal variance, as in
Izmailov et al. 2021 (arXiv:2104.14421, sec. 6.3).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..arguments import positive
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Segment
from .flat_module import FlatModel

__all__ = [
    "Laplace",
    "Logistic",
    "Mixture",
    "Normal",
    "PerGroup",
    "Prior",
    "StudentT",
    "sample",
    "segments",
    "suggested_trajectory_length",
]


@dataclass(frozen=True)
class Prior:
    """Base class: independent zero-mean elements with the given variance.

    Raises:
        UserError: a variance that is not positive and finite.
    """

    variance: float = 1.0

    def __post_init__(self) -> None:
        positive("prior variance", self.variance)

    def family(self) -> int:
        raise NotImplementedError

    def scale(self) -> float:
        """The scale s of the family at this variance."""
        raise NotImplementedError

    def shape(self) -> tuple[float, float]:
        return (0.0, 0.0)


class Normal(Prior):
    """N(0, variance)."""

    def family(self) -> int:
        return ops.NORMAL

    def scale(self) -> float:
        return math.sqrt(self.variance)


class Laplace(Prior):
    """Density exp(-|x|/s) / 2s, variance 2 s^2."""

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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class PerGroup:
    """Priors by parameter name: `PerGroup({"*.bias": Normal(1.0)}, default=Normal(0.1))`.

    Keys are shell patterns over `model.named_parameters()`; the first match applies. With `fan_in=True` each
    variance is divided by the fan-in of the weight (vectors: by 1).
    """

    groups: Mapping[str, Prior] = field(default_factory=dict)
    default: Prior = field(default_factory=Normal)
    fan_in: bool = False


def segments(prior: object, flat: FlatModel) -> tuple[Segment, ...]:
    """The segment table for `flat`'s buffer: one segment per contiguous run with the same family and shape."""
    if not isinstance(prior, Prior | PerGroup):
        what = f"the class {prior.__name__}" if isinstance(prior, type) else f"a {type(prior).__name__}"
        raise UserError(
            f"prior is {what}: give one such as hmc_fast.Normal(variance=0.1), or a PerGroup of several"
        )
    if isinstance(prior, Prior):
        return (Segment(0, flat.num_params, prior.family(), prior.scale(), prior.shape()),)
    owners = [prior.default] * len(flat.names)
    for pattern, group in reversed(list(prior.groups.items())):
        for index in flat.matching(pattern):
            owners[index] = group
    scales = [torch.full((size,), o.scale()) for size, o in zip(flat.sizes, owners, strict=True)]
    scale = torch.cat(scales) * (flat.fan_in().rsqrt() if prior.fan_in else 1.0)
    scale = scale.to(flat.device, flat.dtype)
    table: list[Segment] = []
    start = 0
    for size, owner in zip(flat.sizes, owners, strict=True):
        kind, begin = (owner.family(), owner.shape()), start
        if table and (table[-1].family, table[-1].shape) == kind:
            begin = table.pop().start
        start += size
        table.append(Segment(begin, start, kind[0], scale, kind[1]))
    return tuple(table)


def sample(table: Sequence[Segment], uniform: Tensor, second: Tensor) -> Tensor:
    """Prior draws by inverting the cumulative distribution function, float64 `(C, D)`.

    uniform, second: `(C, D)` in (0, 1), independent; `second` chooses the mixture component. This happens once per
    run, on the CPU.

    Raises:
        UserError: a segment is flat, hence improper.
    """
    u, second = uniform.double().cpu(), second.double().cpu()
    out = torch.empty_like(u)
    for segment in table:
        part = slice(segment.start, segment.stop)
        z = _quantile(segment, u[:, part])
        if segment.family == ops.MIXTURE:
            weight, ratio = segment.shape
            z = torch.where(second[:, part] < weight, z, z * ratio)
        scale = segment.scale[part].double().cpu() if isinstance(segment.scale, Tensor) else segment.scale
        out[:, part] = z * scale
    return out


def _quantile(segment: Segment, u: Tensor) -> Tensor:
    """Inverse cumulative distribution function of the family (or of a mixture's components) at unit scale."""
    if segment.family in (ops.NORMAL, ops.MIXTURE):
        return torch.special.ndtri(u)
    if segment.family == ops.LAPLACE:
        return torch.where(u < 0.5, (2 * u).log(), -(2 * (1 - u)).log())
    if segment.family == ops.LOGISTIC:
        return torch.logit(u)
    if segment.family == ops.STUDENT_T:
        from scipy.special import stdtrit  # torch has none

        return torch.from_numpy(stdtrit(segment.shape[0], u.numpy()))
    raise UserError("a flat prior cannot be sampled: use init='uniform', or a tensor of shape (chains, parameters)")


def suggested_trajectory_length(variance: float) -> float:
    """pi/2 standard deviations of the prior: a quarter of the period of Hamiltonian motion under the prior alone,
    so the directions least constrained by the data decorrelate (Izmailov et al. 2021, sec. 3.2)."""
    return 0.5 * math.pi * math.sqrt(variance)
