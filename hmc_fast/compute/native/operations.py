"""Element-wise torch operations as C expressions, by name: what `elementwise.py` can translate.

`{0}`, `{1}` stand for the operands, already converted to the type in which the operation is computed; `F` for the
suffix of that type's functions in math.h (`expf`, `exp`).
"""

import math
from typing import Any

import torch

__all__ = ["COMPARISONS", "C_TYPES", "EXPRESSIONS", "OF_INTEGERS", "literal", "power"]

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.bool: "uint8_t",
}

# The result is a bool, whatever is compared.
COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "logical_and": "{0} && {1}",
    "logical_or": "{0} || {1}",
    "logical_not": "!{0}",
    "isnan": "{0} != {0}",
    "isinf": "fabs({0}) == INFINITY",
}

# A NaN wins in all of torch's minima and maxima; in C a comparison with it is false.
_MAXIMUM, _MINIMUM = "({0} > {1} || {0} != {0}) ? {0} : {1}", "({0} < {1} || {0} != {0}) ? {0} : {1}"

EXPRESSIONS = {
    "clone": "{0}",
    "copy": "{0}",
    "_to_copy": "{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "rsub": "{1} - {0}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "fmod": "fmodF({0}, {1})",
    "remainder": "fmodF(fmodF({0}, {1}) + {1}, {1})",  # of the divisor's sign
    "neg": "-{0}",
    "abs": "fabsF({0})",
    "sign": "({0} > 0) - ({0} < 0)",
    "reciprocal": "1 / {0}",
    "square": "{0} * {0}",
    "sqrt": "sqrtF({0})",
    "rsqrt": "1 / sqrtF({0})",
    "exp": "expF({0})",
    "expm1": "expm1F({0})",
    "log": "logF({0})",
    "log1p": "log1pF({0})",
    "log2": "log2F({0})",
    "sin": "sinF({0})",
    "cos": "cosF({0})",
    "tan": "tanF({0})",
    "atan": "atanF({0})",
    "tanh": "tanhF({0})",
    "asin": "asinF({0})",
    "acos": "acosF({0})",
    "atan2": "atan2F({0}, {1})",
    "sinh": "sinhF({0})",
    "cosh": "coshF({0})",
    "asinh": "asinhF({0})",
    "acosh": "acoshF({0})",
    "atanh": "atanhF({0})",
    "exp2": "exp2F({0})",
    "log10": "log10F({0})",
    "erf": "erfF({0})",
    "erfc": "erfcF({0})",
    "lgamma": "lgammaF({0})",
    "digamma": "digammaF({0})",
    "floor": "floorF({0})",
    "ceil": "ceilF({0})",
    "trunc": "truncF({0})",
    "round": "nearbyintF({0})",
    "sigmoid": "1 / (1 + expF(-{0}))",
    "relu": "{0} <= 0 ? 0 : {0}",
    "maximum": _MAXIMUM,
    "minimum": _MINIMUM,
    "clamp_min": "({1} > {0} || {1} != {1}) ? {1} : {0}",
    "clamp_max": "({1} < {0} || {1} != {1}) ? {1} : {0}",
    "where": "{0} ? {1} : {2}",
    "addcmul": "{0} + {1} * {2}",
    "addcdiv": "{0} + {1} / {2}",
    "tanh_backward": "{0} * (1 - {1} * {1})",
    "sigmoid_backward": "{0} * (1 - {1}) * {1}",
    "threshold_backward": "{1} <= {2} ? 0 : {0}",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
    "bitwise_not": "~{0}",
    "__lshift__": "{0} << {1}",
    "__rshift__": "{0} >> {1}",
}

# Of integers there are no functions.
OF_INTEGERS = {
    EXPRESSIONS["abs"]: "{0} < 0 ? -{0} : {0}",
    EXPRESSIONS["fmod"]: "{0} % {1}",
    EXPRESSIONS["remainder"]: "({0} % {1} + {1}) % {1}",
}


def power(exponent: float) -> str:
    """A power without the general function where torch has none either."""
    simple = {1: "{0}", 2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "sqrtF({0})", -0.5: "1 / sqrtF({0})"}
    simple |= {-1: "1 / {0}", -2: "1 / ({0} * {0})", 0: "1"}
    return simple.get(exponent, "powF({0}, {1})")


def literal(value: Any, dtype: torch.dtype) -> str:
    """A Python number in C."""
    if dtype.is_floating_point:
        number = float(value)
        if math.isnan(number):
            return "NAN"
        if math.isinf(number):
            return "INFINITY" if number > 0 else "(-INFINITY)"
        return f"(({C_TYPES[dtype]}){number!r})"
    return f"INT64_C({int(value)})" if int(value) >= 0 else f"(-INT64_C({-int(value)}))"
