"""Priors as the segment table that the kernels read (`kernels/prior.py`), which compute their gradient in the same
pass as the update; and draws from such a table."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Segment
from .flat_module import FlatModel
from .prior_means import mean_of
from .priors import AnyPrior, Prior, owners

__all__ = ["sample", "segments"]


def segments(prior: object, flat: FlatModel) -> tuple[Segment, ...]:
    """The segment table for `flat`'s buffer: one segment per contiguous run with the same family and shape. What is
    no family is flat here.

    Raises:
        UserError: see `owners`; a mean that does not fit the parameters.
    """
    groups = owners(prior, flat)
    mean = _mean(groups, flat)
    if isinstance(prior, Prior):
        return (Segment(0, flat.num_params, prior.family(), prior.scale(), prior.shape(), mean),)
    scales, table, start = torch.ones(flat.num_params, dtype=torch.float64), list[Segment](), 0
    by_parameter = {index: group for _, group, own in groups for index in own}
    for index, size in enumerate(flat.sizes):
        group, begin, kind = by_parameter[index], start, (ops.FLAT, (0.0, 0.0))
        if isinstance(group, Prior):
            kind = group.family(), group.shape()
            scales[start : start + size] = group.scale()
        if table and (table[-1].family, table[-1].shape) == kind:
            begin = table.pop().start
        start += size
        table.append(Segment(begin, start, kind[0], shape=kind[1]))
    scale = scales * (flat.fan_in().double().rsqrt() if getattr(prior, "fan_in", False) else 1.0)
    scale = scale.to(flat.device, flat.dtype)
    return tuple(s if s.family == ops.FLAT else replace(s, scale=scale, mean=mean) for s in table)


def _mean(groups: Sequence[tuple[str, AnyPrior, list[int]]], flat: FlatModel) -> Tensor | None:
    """`(D,)`, 0 where a group has none; None if no group has one."""
    if all(group.mean is None for _, group, _ in groups if isinstance(group, Prior)):
        return None
    mean = torch.zeros(flat.num_params, dtype=flat.dtype, device=flat.device)
    parts = mean.split(flat.sizes)
    for _, group, own in groups:
        if isinstance(group, Prior):
            for index in own:
                parts[index].copy_(mean_of(group.mean, flat, index))
    return mean


def sample(table: Sequence[Segment], uniform: Tensor, second: Tensor, *, flat: float | None = None) -> Tensor:
    """Prior draws by inverting the cumulative distribution function, float64 `(C, D)`.

    uniform, second: `(C, D)` in (0, 1), independent; `second` chooses the mixture component. This happens once per
    run, on the CPU. flat: what to write into flat segments.

    Raises:
        UserError: a segment is flat, hence improper, and `flat` is None.
    """
    u, second = uniform.double().cpu(), second.double().cpu()
    out = torch.empty_like(u)
    for segment in table:
        part = slice(segment.start, segment.stop)
        if segment.family == ops.FLAT and flat is not None:
            out[:, part] = flat
            continue
        z = _quantile(segment, u[:, part])
        if segment.family == ops.MIXTURE:
            weight, ratio = segment.shape
            z = torch.where(second[:, part] < weight, z, z * ratio)
        scale = segment.scale[part].double().cpu() if isinstance(segment.scale, Tensor) else segment.scale
        out[:, part] = z * scale + (0 if segment.mean is None else segment.mean[part].double().cpu())
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
