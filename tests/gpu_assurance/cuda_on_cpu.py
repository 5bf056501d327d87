"""A pytest plugin: "cuda" is the CPU, whose tensors say that they are on a GPU, and a graph replays operations.

What only a GPU's tests execute runs here as far as Python goes: names, arguments, shapes, bookkeeping of captures.
Nothing is learnt about CUDA itself.
"""

import contextlib
import fnmatch
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gpu_assurance import launches

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")

# Tests whose subject is absent here, and why.
LEFT_OUT = {
    "test_no_wait_inside_a_step*": "asks for CUDA's sync debug mode: on_fake_cuda.py looks for what waits",
    "test_offsets_between_chains_exceed_32_bits": "fills 11 GB",
    "test_captured_draws_are_the_uncaptured_ones*-True]": "compiles for a GPU: here the same as without",
    "test_same_seed_same_draws_and_flags_restored?resnet20*": "a minute of convolutions, for what LeNet shows",
}


def on_cpu(value):
    is_gpu = isinstance(value, str | torch.device) and str(value) in ("cuda", "cuda:0")
    return CPU if is_gpu else value


class Pretend(TorchFunctionMode):
    """Runs on the CPU what is asked of a GPU; its tensors pretend otherwise."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return GPU
        if func == torch.Tensor.is_cuda.__get__:
            return True
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            return args[0]
        kwargs = kwargs or {}
        if func is not torch.device:
            args, kwargs = (
                [on_cpu(value) for value in args],
                {name: on_cpu(value) for name, value in kwargs.items()},
            )
        return func(*args, **kwargs)


class Graph(TorchDispatchMode):
    """`torch.cuda.CUDAGraph`: records operations and kernels, and repeats them on the same tensors."""

    recording = None  # the graph being captured

    def capture_begin(self, pool=None):
        self.steps, self.saved, Graph.recording = [], {}, self
        self.__enter__()

    def capture_end(self):
        self.__exit__(None, None, None)
        Graph.recording = None
        for storage, values in self.saved.values():  # a capture computes nothing
            storage.copy_(values)

    def keep(self, tensors):
        """Notes what is in their memory before something is written there."""
        with _disable_current_modes():
            for storage in map(torch.Tensor.untyped_storage, tensors):
                self.saved.setdefault(storage._cdata, (storage, storage.clone()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._opname != "_local_scalar_dense", "not permitted when a stream is capturing"
        tensors = launches.tensors(args, kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        if func._schema.is_mutable:
            self.keep(tensors)

        def run():
            made = func(*args, **(kwargs or {}))
            return made, [t for t in launches.tensors(made) if t.untyped_storage()._cdata not in given]

        made, first = run()

        def again():
            for old, new in zip(first, run()[1], strict=True):
                old.copy_(new)

        self.steps.append(again)
        return made

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd(), torch._C.DisableTorchFunction():  # as they were recorded
            for step in self.steps:
                step()


@contextlib.contextmanager
def capture(graph):
    graph.capture_begin()
    try:
        yield
    finally:
        graph.capture_end()


def launch(kernel, name, grid, arguments, options):
    def run():
        with _disable_current_modes():  # the interpreter's own operations are none of the graph's
            kernel[grid](*arguments, **options)

    if Graph.recording is not None:
        Graph.recording.keep(launches.tensors(arguments))
        Graph.recording.steps.append(run)
    run()


class Stream:
    """Everything happens at once."""

    device = GPU

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


class Event:
    """Everything takes a millisecond."""

    def __init__(self, enable_timing=False):
        pass

    def record(self):
        pass

    def elapsed_time(self, end):
        return 1.0


def anything(*_, **__):
    return contextlib.nullcontext()


FAKES = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "a pretended GPU",
    "get_device_capability": lambda device=None: (9, 0),
    "is_bf16_supported": lambda *_, **__: True,
    "get_device_properties": lambda device=None: SimpleNamespace(name="a pretended GPU", total_memory=2**34),
    "max_memory_allocated": lambda device=None: 0,
    "mem_get_info": lambda device=None: (2**34, 2**34),
    "get_rng_state": lambda device=None: torch.get_rng_state(),
    "set_rng_state": lambda state, device=None: None,
    "graph_pool_handle": lambda: (0, 0),
    "CUDAGraph": Graph,
    "Event": Event,
    "graph": capture,
    "Stream": Stream,
    "current_stream": Stream,
    **dict.fromkeys(
        ("stream", "device", "device_of", "synchronize", "empty_cache", "set_sync_debug_mode"), anything
    ),
}
for name, fake in FAKES.items():
    setattr(torch.cuda, name, fake)
torch.compile = lambda function, **_: function  # what it compiles for a GPU it cannot run here


def pytest_collection_modifyitems(config, items):
    """Keeps what runs on a GPU alone; tests of a `device` run on the CPU anyway."""
    kept, dropped = [], []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        suits = item.get_closest_marker("gpu") and "device" not in parameters
        left_out = any(fnmatch.fnmatchcase(item.name, pattern) for pattern in LEFT_OUT)
        (kept if suits and not left_out else dropped).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    from hmc_fast.doctor import speed
    from hmc_fast.kernels import ops

    # what fits a GPU is too much for the interpreter
    speed._ELEMENTS, speed._IMAGES, speed._WIDTH, speed._NUM_LEAPFROG = 4096, 16, 2, 2
    asked, ops._use_triton = ops._use_triton, lambda tensor, impl: impl is not None and asked(tensor, impl)
    try:
        with Pretend(), launches.kernels(launch):
            return (yield)
    finally:
        ops._use_triton = asked
