"""Layout and micro-batch size: measured within a share of the run, kept in a file, and decided by what is kept."""

import json

import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.engine import execution, measurements
from hmc_fast.engine.execution import choose
from hmc_fast.engine.measurements import CALLS, Times, describe, seconds_in_turns


def convolutions(n=600, **options):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    x, y = torch.randn(n, 1, 4, 4), torch.randint(0, 3, (n,))
    return hmc_fast.Posterior(model, (x, y), **options)


class Clock:
    """Seconds by variant, times the machine's `speed`; `asked` has the variants of every measurement."""

    def __init__(self, **seconds):
        self.seconds, self.speed, self.asked = seconds, 1.0, []

    def __call__(self, calls, device):
        for call in calls.values():
            call()
        self.asked.append(list(calls))
        return {name: self.speed * self.of(name) for name in calls}

    def of(self, name):
        """Per micro-batch: alike per example, but for the words that have their own factor."""
        size = next((int(word) for word in name.split() if word.isdigit()), 256)
        factors = [self.seconds[word] for word in name.split() if word in self.seconds]
        return size * (factors[0] if factors else 1.0)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of measurements, empty; every run is long enough to measure."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(execution, "_MEASURE_FROM_SECONDS", 0.0)
    return tmp_path / "hmc_fast" / "measured.json"


def clock(monkeypatch, **seconds):
    made = Clock(**seconds)
    monkeypatch.setattr(measurements, "seconds_in_turns", made)
    return made


def chosen(posterior, *, chains=1, count=512, gradients=1_000):
    choice = choose(posterior, chains, count, gradients, compile=False)
    return describe(choice.target), choice.reasons[-1]


def test_each_choice_is_made_among_what_the_one_before_left(kept, monkeypatch):
    timed = clock(monkeypatch, vmap=2.0, contiguous=0.7)
    monkeypatch.setattr(timed, "of", lambda name, of=timed.of: of(name) * (0.5 if "128" in name else 1.0))
    found, reason = chosen(convolutions(), chains=2)
    assert found == "loop contiguous 128"
    assert timed.asked == [
        ["vmap", "loop channels_last 256"],
        ["loop channels_last 256", "loop contiguous 256"],
        ["loop contiguous 256", "loop contiguous 64", "loop contiguous 128", "loop contiguous 512"],
    ]
    for word in ("loop contiguous 128 (", "loop channels_last 256 2.56e+05 ms", "per 256 examples", "measured now"):
        assert word in reason
    (times,) = json.loads(kept.read_text()).values()
    assert times["loop contiguous 128"] == pytest.approx(256 * 0.7 * 0.5), "per 256 examples, as for the others"
    assert len(times) == 6


def test_what_is_kept_decides(kept, monkeypatch):
    clock(monkeypatch)
    chosen(convolutions())
    ((key, times),) = json.loads(kept.read_text()).items()
    monkeypatch.setattr(measurements, "seconds_in_turns", None)  # no clock: it must not be asked
    layouts, sizes = ("channels_last", "contiguous"), (64, 128, 256, 512)
    for layout in layouts:
        for size in sizes:
            fast = {f"loop {layout} 256": 0.5, f"loop {layout} {size}": 0.1}
            slow = {f"loop {other} {other_size}": 1.0 for other in layouts for other_size in sizes}
            kept.write_text(json.dumps({key: times | slow | fast}))
            found, reason = chosen(convolutions())
            assert found == f"loop {layout} {size}"
            assert "measured earlier" in reason


def test_measuring_takes_a_twentieth_of_the_run_at_most(kept, monkeypatch):
    """However fast the clock says that it is: what is tried follows from the numbers of examples."""
    posterior = convolutions()
    both_layouts = 2 * 256 * CALLS
    for sizes in ((), (64,), (64, 128), (64, 128, 512)):
        kept.unlink(missing_ok=True)
        timed = clock(monkeypatch)
        examples = both_layouts + CALLS * (256 + sum(sizes) if sizes else 0)
        gradients = -(-examples * 20 // 512)
        chosen(posterior, gradients=gradients)
        expected = [["loop channels_last 256", "loop contiguous 256"]]
        if sizes:
            expected.append(["loop channels_last 256", *(f"loop channels_last {size}" for size in sizes)])
        assert timed.asked == expected
        assert sum(timed.of(name) for names in timed.asked for name in names) * CALLS <= 0.05 * gradients * 512
    timed = clock(monkeypatch)
    kept.unlink()
    assert chosen(posterior, gradients=20 * both_layouts // 512 - 1)[0] == "loop channels_last 256"
    assert timed.asked == []


def test_a_longer_run_measures_more_and_changes_nothing_kept(kept, monkeypatch):
    timed = clock(monkeypatch, contiguous=0.9)
    short, long = 200, 1_000
    assert chosen(convolutions(), gradients=short)[0] == "loop contiguous 256"
    (before,) = json.loads(kept.read_text()).values()
    timed.speed = 100.0  # the machine has slowed down since: to be seen in none of the ratios
    chosen(convolutions(), gradients=long)
    (after,) = json.loads(kept.read_text()).values()
    assert after.items() > before.items()
    assert set(after) - set(before) == {f"loop contiguous {size}" for size in (64, 128, 512)}
    for size in (64, 128, 512):
        assert after[f"loop contiguous {size}"] == pytest.approx(after["loop contiguous 256"])
    assert chosen(convolutions(), gradients=short)[0] == "loop contiguous 256"


def test_the_users_micro_batch_size_stands(kept, monkeypatch):
    timed = clock(monkeypatch)
    posterior = convolutions(micro_batch_size=100)
    assert choose(posterior, 1, 512, 1_000, compile=False).target.micro_batch_size == 100
    assert timed.asked == [["loop channels_last", "loop contiguous"]]


def test_nothing_is_measured_for_a_short_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timed = clock(monkeypatch)
    found, reason = chosen(convolutions())
    assert found == "loop channels_last 256"
    assert reason == "gradient: loop channels_last 256"
    assert timed.asked == []


def test_calls_are_timed_in_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    assert set(seconds_in_turns(calls, torch.device("cpu"))) == {"a", "b"}
    assert order[-10:] == ["a", "b"] * 5
    assert len(order) == 2 * CALLS


def test_a_call_without_memory_is_never_chosen(kept, monkeypatch):
    def fails():
        raise torch.OutOfMemoryError

    posterior = convolutions()
    times = Times(posterior, 1, 512)
    variants = [posterior.prepared(path="eager", layout=layout) for layout in posterior.layouts()]
    call = times._call
    monkeypatch.setattr(times, "_call", lambda variant: fails if variant is variants[0] else call(variant))
    assert times.fastest(variants) is variants[1]


def test_compiled_gradients_take_the_usual_layout(kept, monkeypatch):
    clock(monkeypatch, contiguous=0.5, compiled=0.1)
    monkeypatch.setattr(execution, "_compilation_refusal", lambda target: None)
    monkeypatch.setattr(Times, "_call", lambda self, variant: lambda: None)
    target = choose(convolutions(), 1, 512, 10_000_000).target
    assert (target.path, target.layout) == ("compiled", "channels_last")
