"""`torch.compile`, as this package uses it: one specialised function per shape, and no guards at run time."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["compile_function"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compile_function(function: _Function, *, cpu: bool, whole: bool = True) -> _Function:
    """`function`, compiled on its first call for the shapes, dtypes and Python values of that call alone.

    The caller keeps one compiled function per signature, and what `function` closes over must never change:
    nothing is checked at run time (checking costs 20 to 40 us per call, a tenth of a small network's
    gradient).

    cpu: everything it works on is on a CPU. whole: raise on what cannot be traced; False splits the function
    there instead.
    """
    # On a CPU: one C++ call in place of Python between kernels (50 us of 400 for a small network), and tanh by
    # way of exp, accurate to 2e-7 and half the time.
    options: dict[str, Any] = {"cpp_wrapper": True, "cpp.use_decompose_tanh": True} if cpu else {}
    skip = getattr(torch.compiler, "skip_all_guards_unsafe", None)  # from torch 2.8 on
    if skip is not None:
        options["guard_filter_fn"] = skip

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    # Dynamo keeps what it compiled with the code object, which all closures of one `def` share: without a code
    # object of its own, this function would be answered with what was compiled for another.
    call.__code__ = call.__code__.replace()
    return torch.compile(call, fullgraph=whole, dynamic=False, options=options)  # type: ignore[return-value]
