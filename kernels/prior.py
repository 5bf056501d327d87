"""Priors in the form that kernels read: a table of segments, each a contiguous run of one family.

A segment has a scale s (one float, or one per element), up to two shape parameters (a, b), and perhaps a mean
per element, which is subtracted first:

    family      log density of x, up to the normalising constant            shape (a, b)
    FLAT        0                                                            -
    NORMAL      -x^2 / 2s^2                                                  -
    LAPLACE     -|x| / s                                                     -
    LOGISTIC    -x/s - 2 log(1 + exp(-x/s))                                  -
    STUDENT_T   -(a+1)/2 log(1 + x^2 / (a s^2))                              degrees of freedom
    MIXTURE     log[ a N(x; 0, s^2) + (1-a) N(x; 0, (b s)^2) ]               weight, ratio of scales

A prior of a single family is one segment, whatever the scales and means of its groups, so an update that adds its
gradient remains one launch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FLAT", "LAPLACE", "LOGISTIC", "MIXTURE", "NORMAL", "STUDENT_T", "Segment", "grad", "log_density"]

FLAT, NORMAL, LAPLACE, LOGISTIC, STUDENT_T, MIXTURE = range(6)


@dataclass(frozen=True)
class Segment:
    """Elements `start <= i < stop` of every chain. `scale` is a float or a `(D,)` tensor indexed by i, `mean`
    such a tensor or None for 0."""

    start: int
    stop: int
    family: int
    scale: float | Tensor = 1.0
    shape: tuple[float, float] = (0.0, 0.0)
    mean: Tensor | None = None

    def centred(self, theta: Tensor) -> Tensor:
        """`theta (C, stop - start)` minus the mean."""
        if self.mean is None:
            return theta
        return theta - self.mean[self.start : self.stop].to(theta.dtype)

    def scale_like(self, theta: Tensor) -> float | Tensor:
        """The scale of this segment's elements, in theta's dtype: a float, or `(stop - start,)`."""
        if isinstance(self.scale, Tensor):
            return self.scale[self.start : self.stop].to(theta.dtype)
        return self.scale


def _mixture_logits(x: Tensor, s: float | Tensor, a: float, b: float) -> Tensor:
    """Log odds at x that the wide rather than the narrow component generated it."""
    z2 = (x / s) ** 2
    return math.log(a * b / (1 - a)) + 0.5 * z2 * (1 / b**2 - 1)


def grad(x: Tensor, segment: Segment) -> Tensor:
    """Gradient of the log density at `x (C, stop - start)`, element by element."""
    x, s = segment.centred(x), segment.scale_like(x)
    a, b = segment.shape
    if segment.family == FLAT:
        return torch.zeros_like(x)
    if segment.family == NORMAL:
        return -x / (s * s)
    if segment.family == LAPLACE:
        return -torch.sign(x) / s
    if segment.family == LOGISTIC:
        return -torch.tanh(x / (2 * s)) / s
    if segment.family == STUDENT_T:
        return -(a + 1) * x / (a * s * s + x * x)
    if segment.family == MIXTURE:
        logits = _mixture_logits(x, s, a, b)  # sigmoid(-logits), not 1 - sigmoid: 1/b^2 would magnify its rounding
        return -x / (s * s) * (torch.sigmoid(logits) + torch.sigmoid(-logits) / b**2)
    raise ValueError(f"unknown prior family {segment.family}")


def log_density(x: Tensor, segment: Segment) -> Tensor:
    """Normalised log density at `x (C, stop - start)`, element by element; 0 for the flat family."""
    x, s = segment.centred(x), segment.scale_like(x)
    log_s = torch.log(s) if isinstance(s, Tensor) else math.log(s)
    a, b = segment.shape
    if segment.family == FLAT:
        return torch.zeros_like(x)
    if segment.family == NORMAL:
        return -0.5 * (x / s) ** 2 - log_s - 0.5 * math.log(2 * math.pi)
    if segment.family == LAPLACE:
        return -torch.abs(x) / s - log_s - math.log(2)
    if segment.family == LOGISTIC:
        z = torch.abs(x) / s  # the density is even, and exp(-|z|) cannot overflow
        return -z - 2 * torch.log1p(torch.exp(-z)) - log_s
    if segment.family == STUDENT_T:
        constant = math.lgamma((a + 1) / 2) - math.lgamma(a / 2) - 0.5 * math.log(a * math.pi)
        return constant - log_s - 0.5 * (a + 1) * torch.log1p((x / s) ** 2 / a)
    if segment.family == MIXTURE:
        narrow = -0.5 * (x / (b * s)) ** 2 - log_s + math.log((1 - a) / b) - 0.5 * math.log(2 * math.pi)
        # softplus(x) = x past the threshold; the default of 20 would give an error of 2e-9
        return narrow + torch.nn.functional.softplus(_mixture_logits(x, s, a, b), threshold=40)
    raise ValueError(f"unknown prior family {segment.family}")
