"""Gradient steps: recorded without taking a step, refused where they cannot be captured."""

import contextlib
import gc
from typing import ClassVar

import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.dynamics import gradient_step as unit_module
from hmc_fast.dynamics.gradient_step import GradientStep, checked_graph, waiting_operation


class FakeGraph:
    """What torch.cuda.CUDAGraph does, seen from a step: nothing is recorded, and a fault spoils the capture."""

    fault: RuntimeError | None = None
    capturing = False

    def __init__(self):
        self.recorded, self.replays = None, 0

    def capture_begin(self, pool):
        FakeGraph.capturing = True

    def capture_end(self):
        FakeGraph.capturing = False
        if FakeGraph.fault:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self):
        self.replays += 1
        self.recorded()


class FakeStream:
    current: ClassVar[list["FakeStream"]] = []

    def wait_stream(self, other):
        pass

    def __enter__(self):
        FakeStream.current.append(self)

    def __exit__(self, *_):
        FakeStream.current.pop()


class FakeDevice:
    type = "cuda"


class Target:
    """As much of a target as a unit looks at."""

    device = FakeDevice()
    compiled = False
    stream = None

    def single_pass(self, num_chains, count):
        return True


@pytest.fixture
def fake_cuda(monkeypatch):
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(cuda, "Stream", FakeStream)
    monkeypatch.setattr(cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(cuda, "current_stream", FakeStream)
    monkeypatch.setattr(cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(FakeGraph, "fault", None)


def counting_unit(graph):
    buffer = torch.zeros(3)

    def gradient():
        if FakeGraph.capturing and FakeGraph.fault:
            raise FakeGraph.fault
        buffer.add_(1)

    made = GradientStep(Target(), gradient, lambda: buffer.mul_(2), [buffer], count=1, graph=graph)
    return made, buffer


def test_a_recording_takes_no_step(fake_cuda):
    """Warming up and recording leave the buffers as they were; every call after that is one replay."""
    made, buffer = counting_unit("auto")
    made._captured._record()
    assert torch.equal(buffer, torch.zeros(3))
    assert gc.isenabled()
    made._captured._graph.recorded = made._run
    for expected in (2, 6, 14):
        made()
        assert torch.equal(buffer, torch.full((3,), float(expected)))
    assert made._captured._graph.replays == 3


def test_a_gradient_that_waits_for_streamed_data_stays_out_of_the_graphs(fake_cuda):
    """What surrounds it is captured."""
    buffer, calls = torch.zeros(3), []

    def gradient():
        assert not FakeGraph.capturing, "the examples of one step would be replayed in all others"
        calls.append(buffer.clone())

    target = Target()
    target.stream, target.single_pass = object(), lambda *_: False
    step = GradientStep(
        target, gradient, lambda: buffer.mul_(2), [buffer], count=1, prepare=lambda: buffer.add_(1), graph="auto"
    )
    prepare, _, update = step._run.__wrapped__.__closure__[0].cell_contents
    for part in (prepare, update):
        part._record()
        part._graph.recorded = part._function
    for _ in range(3):
        step()
    assert [int(values[0]) for values in calls] == [1, 3, 7]
    assert prepare._graph.replays == update._graph.replays == 3


def test_what_cannot_be_captured_warns_and_runs(fake_cuda, monkeypatch):
    """With the operation's own error, not the one that follows at the end of the capture, and on the old stream."""
    monkeypatch.setattr(FakeGraph, "fault", RuntimeError("operation not permitted when stream is capturing\nmore"))
    made, buffer = counting_unit("auto")
    with pytest.warns(UserWarning, match="cannot be captured in a CUDA graph .operation not permitted when stream"):
        made()
    assert torch.equal(buffer, torch.full((3,), 2.0)), "the warm-up must be undone, and the step taken once"
    assert not FakeStream.current
    assert gc.isenabled()
    made()
    assert torch.equal(buffer, torch.full((3,), 6.0))


def test_graph_true_refuses_what_cannot_be_captured(fake_cuda, monkeypatch):
    monkeypatch.setattr(FakeGraph, "fault", RuntimeError("operation not permitted"))
    made, buffer = counting_unit(True)
    with pytest.raises(hmc_fast.UserError, match="cannot be captured"):
        made()
    assert torch.equal(buffer, torch.zeros(3))


class Waits(nn.Module):
    """A model that a CUDA graph cannot hold."""

    def __init__(self, kind):
        super().__init__()
        self.linear, self.kind = nn.Linear(2, 1, bias=False).double(), kind

    def forward(self, x):
        if self.kind == "item":
            return self.linear(x) * (1.0 if x.sum().item() < 1e9 else 2.0)
        if self.kind == "mask":
            return self.linear(x) * torch.ones(len(x[x[:, 0] < 1e9]), 1, dtype=x.dtype)
        return self.linear(x)


@pytest.mark.parametrize(
    ("kind", "operation"), [("item", "aten._local_scalar_dense"), ("mask", "aten.index.Tensor"), ("fine", None)]
)
def test_the_operation_that_waits_is_named(kind, operation):
    model = Waits(kind)
    x = torch.ones(4, 2, dtype=torch.float64)
    assert waiting_operation(lambda: model(x)) == operation


def test_a_model_that_waits_is_named_before_the_run(monkeypatch):
    x = torch.ones(4, 2, dtype=torch.float64)
    posterior = hmc_fast.Posterior(Waits("mask"), (x, x[:, 0]), "gaussian", chain_batching="loop")
    assert checked_graph(posterior, "auto") is False  # nothing to capture on a CPU
    with pytest.raises(hmc_fast.UserError, match="graph=True needs a CUDA device"):
        checked_graph(posterior, True)
    with pytest.raises(hmc_fast.UserError, match="graph 'yes' is unknown"):
        checked_graph(posterior, "yes")
    monkeypatch.setattr(posterior, "device", FakeDevice())
    monkeypatch.setattr(posterior, "example_row", lambda: torch.zeros(1, 2, dtype=torch.float64))
    monkeypatch.setattr(unit_module, "waiting_operation", lambda _: "aten.nonzero")
    with pytest.warns(UserWarning, match=r"the model calls aten\.nonzero"):
        assert checked_graph(posterior, "auto") is False
    with pytest.raises(hmc_fast.UserError, match=r"the model calls aten\.nonzero"):
        checked_graph(posterior, True)
