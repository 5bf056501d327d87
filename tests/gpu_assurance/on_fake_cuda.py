"""Samplers on a CUDA device that holds no values (fake_cuda.cpp): prints a JSON object, case -> (faults, number of
fused launches).

Values do not exist, so whatever would make the host wait for one cannot go unnoticed, and neither can a tensor that
is made on the host.
"""

import functools
import json
import sys
import traceback
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import hmc_fast
from cases import SAMPLERS, classifier
from gpu_assurance import launches
from hmc_fast.compute.operations import waits_for_value
from hmc_fast.kernels import reduce
from hmc_fast.results.draw_store import DrawStore
from hmc_fast.results.model_average import StreamedAverage

PACKAGES = tuple(str(Path(package.__file__).parent) for package in (hmc_fast, hmc_fast.kernels))

torch.set_num_threads(1)
# A kernel's launcher makes its tensors' device current, which a CPU build of torch refuses.
torch.cuda._exchange_device = torch.cuda._maybe_exchange_device = lambda device: device


def moved(self, device):
    """`Module.to`, which cannot make a parameter fake in place."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = torch.nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer.to(device)
    return self


torch.nn.Module.to = moved

# What may be on the host: by file and function, with the reason.
HOST = {
    ("recording.py", "__init__"): "how often a loop runs is read by Python",
    ("recording.py", "set"): "the same",
}
# What may be read back, and what the read gives: by file and function. All of it during burn-in.
READS = {
    ("initial_step_size.py", "find_step_size"): False,  # no chain searches on: once per trial
    ("window_adaptation.py", "_set_step_size"): 0.1,  # sets the number of steps: once per iteration
}


def listed(table):
    """What the table says about the innermost function on the stack that it names, or None."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if (found := table.get((Path(code.co_filename).name, code.co_name))) is not None:
            return found
        frame = frame.f_back
    return None


def place():
    """File and line of hmc_fast that called torch."""
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGES):
        frame = frame.f_back
    return "" if frame is None else f", {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class Watch(TorchDispatchMode):
    """Collects tensors on the host, reads by the host and copies between host and device."""

    def __init__(self):
        super().__init__()
        self.faults, self.launched = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = launches.tensors(args, kwargs)
        if func._opname == "_local_scalar_dense" and given[0].is_cuda and (value := listed(READS)) is not None:
            return value
        if waits_for_value(func, args) and any(tensor.is_cuda for tensor in given):
            self.faults.append(f"{func} waits for a value{place()}")
        made = func(*args, **(kwargs or {}))
        involved = (*given, *launches.tensors(made))
        on_host = [tensor for tensor in involved if not tensor.is_cuda]
        # A Python number beside a tensor is passed to the kernel by value; vmap makes a tensor of it, by _to_copy.
        number = (given and func._opname != "lift_fresh") or func._opname == "_to_copy"
        by_value = number and all(tensor.dim() == 0 for tensor in on_host)
        if func._opname in ("copy_", "_to_copy") and 0 < len(on_host) < len(involved):
            self.faults.append(f"{func} copies between host and device{place()}")
        elif on_host and not by_value and listed(HOST) is None:
            self.faults.append(f"{func} on the host{place()}")
        return made

    def launch(self, kernel, name, grid, arguments, options):
        self.launched += 1
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                if not (argument.is_cuda and argument.is_contiguous()):
                    self.faults.append(f"{name} on {argument.device}, strides {argument.stride()}")
            elif not isinstance(argument, int | float | None):
                self.faults.append(f"{name} is given a {type(argument).__name__}")


def two_steps(sampler, target, theta):
    state = sampler.init(target, theta, seed=1)
    for warming_up in (True, False):
        sampler.step(state, warming_up=warming_up)


def stored(posterior, theta):
    """Three draws in a ring of two, which wraps where the host would have flushed it."""
    store = DrawStore(3, *theta.shape, capacity=2, device="cuda")
    store.push(theta)
    store.push(theta)
    store.rows.count = 2
    store.push(theta)


def averaged(posterior, theta, x, y):
    logits = posterior.logits(theta, posterior.inputs(x))
    average = StreamedAverage("classification", tuple(logits.shape), labels=y, num_draws=2, device="cuda")
    average.update(average.update_from_logits(logits))


def density(theta):
    with mock.patch.object(torch.cuda, "device_count", return_value=1):  # of the stand-in
        target = hmc_fast.Density(lambda row: -0.5 * (row**2).sum(), theta.shape[1], device="cuda")
    two_steps(SAMPLERS["hmc"](), target, theta)
    two_steps(warmed_up(hmc_fast.MCLMC(adapt=True)), target, theta)


def warmed_up(sampler):
    sampler.init = functools.partial(sampler.init, warm_up_iterations=20)
    return sampler


def misplaced(theta):
    """A launch whose launcher forgot to check what it is given."""
    reduce._finish_kernel[(1,)](theta.t(), theta, 3)


def cases():
    """Name -> a function of a posterior, states and test data, all on the device."""
    for name, sampler in SAMPLERS.items():
        yield name, lambda posterior, theta, x, y, sampler=sampler: two_steps(sampler(), posterior, theta)
    pooled = warmed_up(hmc_fast.HMC(adapt=True))
    yield "pooled adaptation", lambda posterior, theta, x, y: two_steps(pooled, posterior, theta)
    yield "density", lambda posterior, theta, x, y: density(theta)
    yield "draw store", lambda posterior, theta, x, y: stored(posterior, theta)
    yield "streamed average", averaged
    yield "predict", lambda posterior, theta, x, y: posterior.predict(theta, posterior.inputs(x))
    # What must be found:
    yield "FAULT read", lambda posterior, theta, x, y: theta.sum().item()
    yield "FAULT mask", lambda posterior, theta, x, y: theta[theta > 0]
    yield "FAULT host", lambda posterior, theta, x, y: torch.zeros(3)
    yield "FAULT copy", lambda posterior, theta, x, y: theta.cpu()
    yield "FAULT launch", lambda posterior, theta, x, y: misplaced(theta)


def watched(case):
    """(faults, number of fused launches)."""
    posterior, x, y = classifier()
    theta, watch = posterior.initial("prior", 3, 0), Watch()
    with FakeTensorMode(allow_non_fake_inputs=True):
        arguments = posterior.to("cuda"), theta.to("cuda"), x.to("cuda"), y.to("cuda")
        with launches.kernels(watch.launch), watch:
            try:
                case(*arguments)
            except Exception as error:
                watch.faults.append("".join(traceback.format_exception(error)[-4:]))
    return sorted(set(watch.faults)), watch.launched


if __name__ == "__main__":
    print(json.dumps({name: watched(case) for name, case in cases()}))
