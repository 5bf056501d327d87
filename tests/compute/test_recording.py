"""Recorded functions do what the functions do, to the bit; what a recording would freeze is refused."""

import pytest
import torch

import hmc_fast
from cases import SAMPLERS
from hmc_fast.compute.program import Program
from hmc_fast.compute.recording import Repeats, Unrecordable, record, repeat
from targets import linear_regression


@pytest.mark.parametrize("name", SAMPLERS)
def test_traced_chains_are_the_eager_ones(name):
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 2, 0)
    states = []
    for path in ("eager", "traced"):
        state = SAMPLERS[name]().init(posterior.prepared(path=path), theta, seed=1)
        for _ in range(3):
            SAMPLERS[name]().step(state)
        states.append(state)
    assert torch.equal(states[0].theta, states[1].theta)
    assert not torch.equal(states[0].theta, theta)


def test_recording_restores_what_it_wrote_and_replaying_writes_it():
    x, y = torch.ones(3), torch.zeros(2, 3)

    def function():
        y[1].add_(2 * x)
        x.mul_(3)
        return x.sum(), y.clone()

    recording = record(function)
    assert torch.equal(x, torch.ones(3))
    assert not y.any()
    run = recording.replay()
    for factor in (1, 3):
        total, copy = run()
        assert float(total) == 9 * factor
        assert torch.equal(copy, y)
    assert y.tolist() == [[0, 0, 0], [8, 8, 8]]


def test_literals_are_made_anew():
    """A constant that the function goes on to write."""
    out = torch.zeros(1)

    def function():
        total = torch.tensor([1.0])
        total.add_(out)
        out.copy_(total)

    run = record(function).replay()
    for expected in (1.0, 2.0, 3.0):
        run()
        assert float(out) == expected


def test_loops_run_as_often_as_is_said_at_the_time():
    x, repeats = torch.zeros(1), Repeats(2)
    program = Program(lambda: repeat(lambda: x.add_(1), repeats), "traced")
    for number, total in ((0, 0), (2, 2), (5, 7), (0, 7), (1, 8)):
        repeats.set(number)
        program()
        assert float(x) == total


@pytest.fixture(params=["native", "inductor"])
def compiler(request, monkeypatch):
    """Either compiler of the path "loop"."""
    if request.param == "inductor":
        monkeypatch.setenv("CC", "no-such-compiler")


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_loops_run_as_often_as_is_said_at_the_time():
    """The buffer that each round overwrites is scratch but for the last one."""
    x, y, repeats = torch.zeros(2, 3), torch.zeros(2), Repeats(2)

    def body():
        x.add_(1)
        y.copy_(x.sum(1))  # overwritten each time: scratch but for the last one

    def function():
        x.mul_(2)
        repeat(body, repeats)
        x.add_(1)

    program = Program(function, "loop")
    total = 0.0
    for number in (2, 5, 4, 0, 1, 9):
        repeats.set(number)
        after = 2 * total + number
        if number:
            last = 3 * after
        total = after + 1
        program()
        assert y.tolist() == [last, last]
        assert torch.equal(x, torch.full((2, 3), total))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_second_loop_reads_what_the_first_has_left():
    x, y, z, first, second = torch.zeros(2, 3), torch.zeros(2), torch.zeros(2), Repeats(3), Repeats(2)

    def fill():
        x.add_(1)
        y.copy_(x.sum(1))

    def function():
        repeat(fill, first)
        repeat(lambda: z.add_(y), second)
        y.zero_()  # scratch, were it not for the second loop
        return z.clone()

    assert Program(function, "loop")().tolist() == [18.0, 18.0]


def test_a_loop_uses_buffers_only():
    def function():
        temporary = torch.ones(1)
        repeat(lambda: temporary.add_(1), Repeats(2))

    with pytest.raises(AssertionError, match="a loop must only use buffers"):
        record(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * torch.rand_like(x), "draws random numbers"),
        (lambda x: x if float(x.sum()) > 0 else -x, "reads a tensor's value"),
        (lambda x: x[x > 0], "reads a tensor's value"),
    ],
)
def test_what_a_recording_would_freeze_is_refused(function, message):
    x = torch.ones(3)
    with pytest.raises(Unrecordable, match=message):
        record(lambda: function(x))
    assert torch.equal(x, torch.ones(3))


@pytest.mark.slow
def test_what_the_compiler_cannot_take_runs_traced_and_says_so(monkeypatch):
    import hmc_fast.compute.program as program

    def fail(recording):
        raise RuntimeError("no such lowering\nand a long tale")

    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(program, "compile_recording", fail)
    x = torch.zeros(1)
    with pytest.warns(UserWarning, match="runs traced, not compiled, which is slower: no such lowering$"):
        Program(lambda: x.add_(1), "loop")()
    assert float(x) == 1


@pytest.mark.slow
def test_a_run_in_loops_resumes_to_the_same_draws(tmp_path):
    posterior, _ = linear_regression()
    options = {"chains": 2, "burn_in": 1, "draws": 6, "progress": False, "compile": True}
    for name in ("hmc_jittered", "sghmc"):
        whole = hmc_fast.run(posterior, SAMPLERS[name](), **options)
        hmc_fast.run(posterior, SAMPLERS[name](), out=tmp_path / name, **options)
        # a resumed run computes as it did before, whatever is asked for now
        again = hmc_fast.run(
            posterior, SAMPLERS[name](), out=tmp_path / name, resume=True, **options | {"compile": False}
        )
        assert (again.draws == whole.draws).all()
        assert again.target.path == "loop"
