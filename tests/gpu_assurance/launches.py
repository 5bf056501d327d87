"""What a step launches on a GPU, seen without one: torch's operations, and kernels where Python hands them over."""

import contextlib
import importlib
import pkgutil

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import hmc_fast.kernels
from hmc_fast.compute.operations import WatchingMode

# Operations on metadata, and allocations: no kernel runs. Whatever is not listed counts.
FREE = (
    *("alias", "as_strided", "broadcast_to", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute"),
    *("select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
    *("_reshape_alias", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    "resize_",
)


@contextlib.contextmanager
def kernels(handed_over):
    """Every launch of a Triton kernel calls `handed_over(kernel, name, grid, arguments, options)` instead."""
    replaced = []
    for found in pkgutil.iter_modules(hmc_fast.kernels.__path__, "hmc_fast.kernels."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if name.startswith("_") and name.endswith("_kernel"):
                replaced.append((module, name, value))
    for module, name, kernel in replaced:
        setattr(module, name, _Kernel(kernel, name, handed_over))
    try:
        yield
    finally:
        for module, name, kernel in replaced:
            setattr(module, name, kernel)


class _Kernel:
    def __init__(self, kernel, name, handed_over):
        self.kernel, self.name, self.handed_over = kernel, name, handed_over

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.handed_over(self.kernel, self.name, grid, arguments, options)

        return launch


class Counted(WatchingMode, TorchDispatchMode):
    """Names of the operations that launch something, in order; `kernels` may add to them."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._opname not in FREE:
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def tensors(*values):
    return [value for value in pytree.tree_leaves(values) if isinstance(value, torch.Tensor)]
