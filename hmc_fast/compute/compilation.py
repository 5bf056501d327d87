"""`torch.compile` as hmc_fast uses it: one specialised function per shape, with no guards at run time."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["compile_function", "cpu_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def cpu_options() -> dict[str, Any]:
    """One C++ call replaces the Python between kernels (50 us of 400 for a small network), and tanh is computed
    from exp, accurate to 2e-7 in half the time."""
    return {"cpp_wrapper": True, "cpp.use_decompose_tanh": True}


def compile_function(
    function: _Function, *, cpu: bool, whole: bool = True, half_vectors: bool = False
) -> _Function:
    """`function`, compiled on its first call for the shapes, dtypes and Python values of that call only.

    The caller keeps one compiled function per signature, and the values that `function` closes over must never
    change. Nothing is checked at run time: guards cost 20 to 40 us per call, a tenth of a small network's gradient.

    cpu: all tensors are on a CPU. whole: raise on code that cannot be traced; False breaks the graph there.
    half_vectors: 8 floats to a vector where the CPU has 16. For rows that 16 does not divide, Inductor's code is
        scalar.
    """
    options = cpu_options() if cpu else {}
    if half_vectors and torch.backends.cpu.get_cpu_capability() == "AVX512":
        options["cpp.simdlen"] = 256
    skip = getattr(torch.compiler, "skip_all_guards_unsafe", None)  # from torch 2.8 on
    if skip is not None:
        options["guard_filter_fn"] = skip

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    # Dynamo caches compiled functions by code object, which all closures of one `def` share: without its own code
    # object, this function would run what was compiled for another.
    call.__code__ = call.__code__.replace()
    compiled = torch.compile(call, fullgraph=whole, dynamic=False, options=options)
    return compiled if cpu else _quiet_at_first(compiled)  # type: ignore[return-value]


def _quiet_at_first(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Without the compiler's remarks on speed (tf32, softmax), about which a user can do nothing here."""
    compiles = True

    def run(*arguments: Any) -> Any:
        nonlocal compiles
        if not compiles:
            return compiled(*arguments)
        compiles = False
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._inductor")
            return compiled(*arguments)

    return run
