"""Triton device functions: gradient and log density of a prior, element by element.

The table of families is in `prior.py`. The formulas here differ, to stay accurate for small and large arguments
with the functions that Triton offers both in its interpreter and on devices: exp and log, but no tanh or log1p.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import math

import triton
import triton.language as tl
from torch import Tensor

from .prior import FLAT, LAPLACE, LOGISTIC, MIXTURE, NORMAL, STUDENT_T, Segment

_FLAT = tl.constexpr(FLAT)
_NORMAL = tl.constexpr(NORMAL)
_LAPLACE = tl.constexpr(LAPLACE)
_LOGISTIC = tl.constexpr(LOGISTIC)
_STUDENT_T = tl.constexpr(STUDENT_T)
_MIXTURE = tl.constexpr(MIXTURE)


def scalars(segment: Segment) -> tuple[float, float, float]:
    """A segment's arguments for the device functions: the scale (1 if it is a tensor) and two numbers p, q.

    STUDENT_T: p = degrees of freedom. MIXTURE: p = log odds of the wide component at 0, q = 1 / ratio^2.
    """
    scale = 1.0 if isinstance(segment.scale, Tensor) else float(segment.scale)
    a, b = segment.shape
    if segment.family == MIXTURE:
        return scale, math.log(a * b / (1 - a)), 1 / b**2
    if segment.family not in (FLAT, NORMAL, LAPLACE, LOGISTIC, STUDENT_T):
        raise ValueError(f"unknown prior family {segment.family}")
    return scale, a, b


def log_normaliser(segment: Segment) -> float:
    """The constant of the log density, without -log(scale)."""
    a, b = segment.shape
    if segment.family == NORMAL:
        return -0.5 * math.log(2 * math.pi)
    if segment.family == LAPLACE:
        return -math.log(2)
    if segment.family == STUDENT_T:
        return math.lgamma((a + 1) / 2) - math.lgamma(a / 2) - 0.5 * math.log(a * math.pi)
    if segment.family == MIXTURE:
        return math.log((1 - a) / b) - 0.5 * math.log(2 * math.pi)
    return 0.0


@triton.jit
def _softplus_minus(x):
    """log(1 + exp(-|x|)). Without log1p, float64 loses at most 1.1e-16 per term, less than the sum does."""
    return tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _tanh(x):
    """Below 1/2 a continued fraction truncated at x^14 (error under 2e-16); above it, exp of a negative number."""
    h = tl.abs(x)
    t = tl.exp(-2.0 * h)
    far = (1.0 - t) / (1.0 + t)
    h = tl.minimum(h, 0.5)
    y = h * h
    top = h * (135135.0 + y * (17325.0 + y * (378.0 + y)))
    near = top / (135135.0 + y * (62370.0 + y * (3150.0 + y * 28.0)))
    value = tl.where(tl.abs(x) < 0.5, near, far)
    return tl.where(x < 0.0, -value, value)


@triton.jit
def grad(x, s, p, q, FAMILY: tl.constexpr):
    """Gradient of the log density at x, for any family but FLAT; s, p, q must have x's dtype."""
    if FAMILY == _NORMAL:
        value = -x / (s * s)
    elif FAMILY == _LAPLACE:
        value = tl.where(x > 0.0, -1.0, tl.where(x < 0.0, 1.0, 0.0)).to(x.dtype) / s
    elif FAMILY == _LOGISTIC:
        value = -_tanh(x / (2.0 * s)) / s
    elif FAMILY == _STUDENT_T:
        value = -(p + 1.0) * x / (p * s * s + x * x)
    else:
        tl.static_assert(FAMILY == _MIXTURE)
        z = x / s
        logit = p + 0.5 * (z * z) * (q - 1.0)
        t = tl.exp(-tl.abs(logit))
        large, little = 1.0 / (1.0 + t), t / (1.0 + t)
        wide = tl.where(logit > 0.0, large, little)
        narrow = tl.where(logit > 0.0, little, large)
        value = -x / (s * s) * (wide + narrow * q)
    return value


@triton.jit
def grad_at(theta, element, mask, scale_ptr, mean_ptr, scale, p, q, FAMILY: tl.constexpr):
    """`grad` at the elements of a row, whose scales and means are read where they differ; theta sets the dtype."""
    dtype = theta.dtype
    if scale_ptr is not None:
        s = tl.load(scale_ptr + element, mask=mask, other=1.0).to(dtype)
    else:
        s = tl.full((), scale, dtype)
    x = theta
    if mean_ptr is not None:
        x = theta - tl.load(mean_ptr + element, mask=mask, other=0.0).to(dtype)
    return grad(x, s, tl.full((), p, dtype), tl.full((), q, dtype), FAMILY)


@triton.jit
def log_kernel(x, r, p, q, FAMILY: tl.constexpr):
    """Log density at x without its constant and -log(scale); 0 for FLAT. Intended for float64.

    r: 1 / scale, computed once by the caller: float64 divisions would cost more than the memory traffic.
    """
    z = x * r
    if FAMILY == _FLAT:
        value = tl.zeros_like(x)
    elif FAMILY == _NORMAL:
        value = -0.5 * (z * z)
    elif FAMILY == _LAPLACE:
        value = -tl.abs(z)
    elif FAMILY == _LOGISTIC:
        value = -tl.abs(z) - 2.0 * _softplus_minus(z)
    elif FAMILY == _STUDENT_T:
        value = -0.5 * (p + 1.0) * tl.log(1.0 + z * z * (1.0 / p))
    else:
        tl.static_assert(FAMILY == _MIXTURE)
        logit = p + 0.5 * (z * z) * (q - 1.0)
        value = -0.5 * (z * z) * q + tl.maximum(logit, 0.0) + _softplus_minus(logit)
    return value
