"""Choices of how to compute: from counted work or a kept measurement, never from a clock."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hmc_fast
from hmc_fast.compute.operations import count_operations
from hmc_fast.engine import execution
from hmc_fast.engine.execution import choose, count_work
from hmc_fast.models import lenet5, mlp


def network(chain_batching=None, n=40):
    x, y = torch.randn(n, 6), torch.randint(0, 3, (n,))
    return hmc_fast.Posterior(mlp(6, (8,), 3), (x, y), chain_batching=chain_batching)


def test_work_is_counted():
    """Three products per layer (two for the first, whose input needs no gradient), two flops per multiply-add."""
    posterior = network()
    work = count_work(posterior, 1, 40)
    assert work.flops == 2 * 40 * (2 * 6 * 8 + 3 * 8 * 3)
    assert count_work(posterior, 4, 40).flops == 4 * work.flops
    assert 20 < work.operations < 100
    assert count_work(network("loop"), 4, 40).launches == 4 * count_work(network("loop"), 1, 40).launches


class Attention(nn.Module):
    """One head over the 4 x 3 inputs of an example, keys and values 5 and 2 wide: nothing but products."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(3, 5, False), nn.Linear(3, 5, False), nn.Linear(3, 2, False)

    def forward(self, x):
        q, k, v = (part(x)[:, None] for part in (self.query, self.key, self.value))
        return nn.functional.scaled_dot_product_attention(q, k, v)


DOWN_AND_UP = nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), nn.ConvTranspose1d(6, 5, 4, stride=3)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(6, (8,), 3), (7, 6)),
        (lenet5(), (3, 1, 28, 28)),
        (nn.Sequential(*DOWN_AND_UP), (3, 4, 20)),
        (nn.Conv3d(2, 3, (1, 2, 3)), (2, 2, 4, 5, 6)),
    ],
    ids=["mlp", "lenet", "transposed", "3d"],
)
@pytest.mark.parametrize("input_needs_gradient", [False, True])
def test_flops_are_those_that_torch_counts(model, shape, input_needs_gradient):
    x = torch.randn(shape, requires_grad=input_needs_gradient)
    with FlopCounterMode(display=False) as theirs:
        model(x).sum().backward()
    ours = count_operations(lambda: model(x).sum().backward())
    assert ours.flops == theirs.get_total_flops()
    assert ours.number > 2


def test_grouped_convolutions_and_attention_are_counted_by_hand():
    """Where torch's counter errs: it takes a grouped convolution's weight gradient for a full one's, and leaves
    out attention on a CPU."""
    x = torch.randn(5, 6, 9, requires_grad=True)
    convolution = nn.Conv1d(6, 4, 3, groups=2, bias=False)
    assert count_operations(lambda: convolution(x).sum().backward()).flops == 3 * 2 * (5 * 7) * (4 * 3 * 3)

    x, model = torch.randn(7, 4, 3), Attention()
    projections = 2 * 7 * 4 * 3 * (5 + 5 + 2)
    scores = 2 * 7 * 4 * 4
    forward = projections + scores * (5 + 2)
    assert count_operations(lambda: model(x)).flops == forward
    backward = projections + scores * (2 * 5 + 2 * 2)
    flops = count_operations(lambda: model(x).sum().backward()).flops
    assert flops in (forward + backward, forward + backward + scores * 5), "fused kernels compute the scores again"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of measurements, empty; compilation is a fifth faster than anything else on this clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def seconds(call, variant):
        call()
        return 0.8 if variant.compiled else 1.0

    monkeypatch.setattr(execution, "_median_seconds", seconds)
    return tmp_path / "hmc_fast" / "measured.json"


@pytest.mark.slow
def test_long_runs_are_compiled_and_short_ones_not(kept):
    posterior = network()
    short, long = choose(posterior, 2, 40, 1_000), choose(posterior, 2, 40, 10_000_000)
    assert not short.target.compiled
    assert long.target.compiled
    assert "would not pay off" in short.reasons[0]
    assert choose(posterior, 2, 40, 1_000, compile=True).target.compiled
    assert not choose(posterior, 2, 40, 10_000_000, compile=False).target.compiled


@pytest.mark.slow
def test_compilation_that_does_not_help_is_dropped(kept):
    posterior = network("loop")
    assert choose(posterior, 2, 40, 10_000_000).target.compiled
    ((key, times),) = json.loads(kept.read_text()).items()
    assert set(times) == {"loop", "loop compiled"}
    kept.write_text(json.dumps({key: {"loop": 1.0, "loop compiled": 1.1}}))
    choice = choose(posterior, 2, 40, 10_000_000)
    assert not choice.target.compiled
    assert "measured earlier" in choice.reasons[-1]
    assert choose(posterior, 2, 40, 10_000_000, compile=True).target.compiled, "the user's word stands"


def test_a_gradient_in_one_pass_is_recorded():
    """Compiled, it becomes a loop; otherwise it is traced, unless the run is too short even for that."""
    posterior = network("vmap")
    assert choose(posterior, 2, 40, 10_000_000).target.path == "loop"
    assert choose(posterior, 2, 40, 1_000).target.path == "traced"
    assert choose(posterior, 2, 40, 10_000_000, compile=False).target.path == "traced"
    assert choose(posterior, 2, 40, 5, compile=False).target.path == "eager"
    assert choose(network("loop"), 2, 40, 1_000, compile=False).target.path == "eager"


def test_a_gradient_that_a_recording_would_freeze_runs_untraced():
    class Scaled(hmc_fast.Density):
        def log_likelihood_and_grad(self, theta, grad, log_lik, indices=None):
            scale = 1.0 + np.abs(theta.numpy()).sum()
            grad.copy_(-scale * theta)
            log_lik.copy_(-0.5 * scale * (theta**2).sum(1, keepdim=True))

    choice = choose(Scaled(lambda theta: -(theta**2).sum(), 3), 2, 1, 1_000, compile=False)
    assert choice.target.path == "eager"
    assert "recorded at one point, they are wrong at another" in choice.reasons[0]


def test_a_gradient_that_is_not_finite_is_compared_all_the_same():
    for value in (torch.nan, torch.inf):
        density = hmc_fast.Density(lambda theta, value=value: -(theta**2).sum() + value, 3)
        assert choose(density, 2, 1, 1_000, compile=False).target.path == "traced"


def test_an_unknown_choice_is_refused():
    posterior = network()
    with pytest.raises(hmc_fast.UserError, match="compile 'yes' is unknown"):
        choose(posterior, 2, 40, 1, compile="yes")


class Untraceable(nn.Module):
    """Its graph depends on a value, which fullgraph tracing refuses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(x) if float(x.sum()) < 1e9 else x[:, :3]


def test_a_model_that_cannot_be_compiled_says_so():
    posterior = hmc_fast.Posterior(Untraceable(), (torch.randn(9, 6), torch.randint(0, 3, (9,))))
    posterior = posterior.prepared(path="eager", chain_batching="loop")
    with pytest.warns(UserWarning, match=r"torch\.compile cannot trace this model"):
        assert not choose(posterior, 1, 9, 10**9).target.compiled
    with pytest.raises(hmc_fast.UserError, match=r"torch\.compile cannot trace this model"):
        choose(posterior, 1, 9, 10, compile=True)


def test_chains_are_measured_once_and_the_choice_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(execution, "_MEASURE_FROM_SECONDS", 0.0)
    posterior = network()
    first = choose(posterior, 3, 40, 10, compile=False)
    assert first.target.chain_batching in ("vmap", "loop")
    assert "measured now" in first.reasons[-1]
    (key, times), *others = json.loads((tmp_path / "hmc_fast" / "measured.json").read_text()).items()
    assert not others
    assert set(times) == {"vmap", "loop"}

    # what is kept decides from then on, whatever the clock would say
    for kept, other in (("loop", "vmap"), ("vmap", "loop")):
        (tmp_path / "hmc_fast" / "measured.json").write_text(json.dumps({key: {kept: 1e-9, other: 1.0}}))
        again = choose(posterior, 3, 40, 10, compile=False)
        assert again.target.chain_batching == kept
        assert "measured earlier" in again.reasons[-1]

    assert choose(network("loop"), 3, 40, 10, compile=False).target.chain_batching == "loop", (
        "the user's word stands"
    )
    for damaged in ("{", json.dumps({key: {"vmap": 0.0, "loop": -1.0}}), json.dumps({key: {"vmap": "1"}})):
        (tmp_path / "hmc_fast" / "measured.json").write_text(damaged)  # measured anew
        assert "measured now" in choose(posterior, 3, 40, 10, compile=False).reasons[-1]


def test_replays_are_timed_where_steps_will_be_captured(monkeypatch):
    captured = []

    class Graph:
        def __init__(self, function, *_, **__):
            captured.append(function)

        def __call__(self):
            return captured[-1]()

    monkeypatch.setattr(execution, "_MEASURE_FROM_SECONDS", 0.0)
    monkeypatch.setattr(execution, "Captured", Graph)
    posterior = network(n=41)
    choose(posterior, 3, 41, 10, compile=False)
    assert captured == []
    choice = choose(posterior, 3, 41, 10, compile=False, graph="auto")
    assert len(captured) == 2, "vmap and loop, whose eager times are another entry"
    assert "measured now" in choice.reasons[-1]


class RefusesVmap(nn.Module):
    """In-place writing of a batched value into an unbatched one: vmap has no rule for it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        out = torch.zeros(len(x), 3)
        out.copy_(self.linear(x))
        return out


def test_a_model_that_vmap_refuses_still_runs():
    """Without being told to: the loop over chains is taken, and said."""
    posterior = hmc_fast.Posterior(RefusesVmap(), (torch.randn(9, 6), torch.randint(0, 3, (9,))))
    assert posterior.chain_batching == "loop"
    run = hmc_fast.run(posterior, hmc_fast.HMC(0.01, num_leapfrog=2), chains=2, burn_in=0, draws=2, progress=False)
    assert run.draws.shape[:2] == (2, 2)
    with pytest.raises(hmc_fast.UserError, match="vmap cannot batch this model"):
        hmc_fast.Posterior(RefusesVmap(), (torch.randn(9, 6), torch.randint(0, 3, (9,))), chain_batching="vmap")


def test_streams_need_a_gpu():
    with pytest.raises(hmc_fast.UserError, match="'streams' needs a CUDA device"):
        network("streams")


def test_convolutions_are_looped_over():
    x, y = torch.randn(4, 1, 28, 28), torch.randint(0, 10, (4,))
    assert hmc_fast.Posterior(lenet5(), (x, y)).chain_batching == "loop"
