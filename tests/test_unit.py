"""Units of work: recorded without taking a step, compiled to the same draws, refused where they cannot be."""

import numpy as np
import pytest
import torch
from test_protocol import SAMPLERS
from torch import nn

import hmc_fast
from hmc_fast.compute.compilation import compile_function
from hmc_fast.dynamics import gradient_step as unit_module
from hmc_fast.dynamics.gradient_step import GradientStep, checked_graph, waiting_operation
from hmc_fast.kernels import reference
from hmc_fast.kernels.reference import Counter
from targets import linear_regression


class FakeGraph:
    """What torch.cuda.CUDAGraph and torch.cuda.graph do, seen from a unit: a recording does not take place."""

    def __init__(self):
        self.recorded, self.replays = None, 0

    def replay(self):
        self.replays += 1
        self.recorded()


class FakeDevice:
    type = "cuda"


class Target:
    """As much of a target as a unit looks at."""

    device = FakeDevice()
    compiled = False

    def single_pass(self, num_chains, count):
        return True


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA's side of a recording; returns what a test may make fail."""
    fault = {}

    class Recording:
        def __init__(self, graph):
            self.graph = graph

        def __enter__(self):
            if "error" in fault:
                raise fault["error"]

        def __exit__(self, *_):
            return False

    class Stream:
        def wait_stream(self, other):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(cuda, "graph", Recording)
    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(cuda, "current_stream", Stream)
    monkeypatch.setattr(cuda, "synchronize", lambda: None)
    return fault


def counting_unit(graph):
    buffer = torch.zeros(3)
    made = GradientStep(Target(), lambda: buffer.add_(1), lambda: buffer.mul_(2), [buffer], count=1, graph=graph)
    return made, buffer


def test_a_recording_takes_no_step(fake_cuda):
    """Warming up and recording leave the buffers as they were; every call after that is one replay."""
    made, buffer = counting_unit("auto")
    made._record()
    assert torch.equal(buffer, torch.zeros(3))
    made._graph.recorded = made._run
    for expected in (2, 6, 14):
        made()
        assert torch.equal(buffer, torch.full((3,), float(expected)))
    assert made._graph.replays == 3


def test_what_cannot_be_captured_warns_and_runs(fake_cuda):
    fake_cuda["error"] = RuntimeError("operation not permitted when stream is capturing\nmore")
    made, buffer = counting_unit("auto")
    with pytest.warns(UserWarning, match="cannot be captured in a CUDA graph .operation not permitted when stream"):
        made()
    assert torch.equal(buffer, torch.full((3,), 2.0)), "the warm-up must be undone, and the step taken once"
    made()
    assert torch.equal(buffer, torch.full((3,), 6.0))


def test_graph_true_refuses_what_cannot_be_captured(fake_cuda):
    fake_cuda["error"] = RuntimeError("operation not permitted")
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


# --- compiled ---


COMPILED_FIRST = ("hmc", "sghmc", "sgld", "sgnht", "baoab", "mclmc")  # the others, as slow to compile, come with CI


@pytest.mark.parametrize(
    "name",
    [name if name in COMPILED_FIRST else pytest.param(name, marks=pytest.mark.statistical) for name in SAMPLERS],
)
def test_compiled_chains_are_the_eager_ones(name):
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 2, 0)
    states = []
    for compiled in (False, True):
        sampler = SAMPLERS[name]()
        state = sampler.init(posterior.prepared(compiled=compiled), theta, seed=1)
        for _ in range(3):
            sampler.step(state)
        states.append(state)
    torch.testing.assert_close(states[0].theta, states[1].theta, rtol=1e-5, atol=1e-6)
    assert not torch.equal(states[0].theta, theta)


def test_compiled_random_bits_are_the_eager_ones():
    """One block of one chain is all scalars, where the C++ compiler once made use of a signed overflow."""
    for chains, elements in ((1, 3), (2, 37)):
        step = torch.tensor([5])

        def bits(chains=chains, elements=elements, step=step):
            return reference.uniforms(Counter(3, 1, step), chains, elements)

        assert torch.equal(compile_function(bits, cpu=True)(), bits())


def test_functions_of_one_source_line_are_compiled_apart():
    def make(factor):
        return compile_function(lambda x: x * factor, cpu=True)

    two, three = make(2.0), make(3.0)
    assert float(two(torch.ones(2))[0]) == 2.0
    assert float(three(torch.ones(2))[0]) == 3.0


def test_compiled_micro_batches_add_up():
    """Full micro-batches are compiled, the remainder is not; the sum is the gradient of the whole."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=generator), torch.randint(0, 4, (50,), generator=generator)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    whole = hmc_fast.Posterior(model, (x, y))
    theta = whole.initial("prior", 2, 0)
    expected = whole.potential_and_grad(theta)
    for chain_batching in ("vmap", "loop"):
        parts = hmc_fast.Posterior(model, (x, y), micro_batch_size=16, chain_batching=chain_batching)
        value, grad = parts.prepared(compiled=True).potential_and_grad(theta)
        torch.testing.assert_close(value, expected[0])
        torch.testing.assert_close(grad, expected[1], rtol=1e-4, atol=1e-4)


def test_a_compiled_run_resumes_to_the_same_draws(tmp_path):
    posterior, _ = linear_regression()
    options = {"chains": 2, "burn_in": 1, "draws": 6, "progress": False, "compile": True}
    whole = hmc_fast.run(posterior, SAMPLERS["sghmc"](), **options)
    stored = hmc_fast.run(posterior, SAMPLERS["sghmc"](), out=tmp_path / "run", **options)
    assert np.array_equal(whole.draws, stored.draws)
    # a resumed run computes as it did before, whatever is asked for now
    again = hmc_fast.run(
        posterior, SAMPLERS["sghmc"](), out=tmp_path / "run", resume=True, **options | {"compile": False}
    )
    assert np.array_equal(again.draws, whole.draws)
    assert again.target.compiled
