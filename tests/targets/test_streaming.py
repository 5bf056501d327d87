"""Streamed data: the draws of data in memory, by any number of workers; nothing read whole, nothing left behind."""

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import hmc_fast
from cases import SAMPLERS, some_slow
from hmc_fast.engine.loop import Interrupted
from hmc_fast.targets import sources, streaming
from interruption import interrupt_at

N = 80
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
FAILING = "failing"

# On a machine of fewer cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Rows(Dataset):
    """Pairs; `spoil(row, x)` may change or refuse an example."""

    def __init__(self, spoil=None, count=N):
        self.spoil, self.count = spoil or (lambda row, x: x), count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return self.spoil(row, X[row]), int(Y[row])


class Together(Rows):
    def __getitems__(self, rows):
        return [self[row] for row in rows]


def network(width=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 3))


def posterior(data=None, **options):
    return hmc_fast.Posterior(network(), (X, Y) if data is None else data, **{"micro_batch_size": 30} | options)


def draws(target, name="sghmc", **options):
    options = {"chains": 2, "burn_in": 2, "draws": 5, "progress": False, "draw_dtype": torch.float32} | options
    return torch.as_tensor(np.array(hmc_fast.run(target, SAMPLERS[name](), **options).draws))


@pytest.fixture
def mapped(tmp_path):
    """X in a file, of another type than the model's."""
    values = np.memmap(tmp_path / "x", mode="w+", dtype=np.float64, shape=X.shape)
    values[:] = X.numpy()
    values.flush()
    return np.memmap(tmp_path / "x", mode="r", dtype=np.float64, shape=X.shape)


@pytest.fixture(autouse=True)
def small_reads(monkeypatch):
    """At construction, so that there are several."""
    monkeypatch.setattr(streaming, "_READ_ROWS", 30)


def readers():
    """Processes and threads."""
    return [*multiprocessing.active_children(), *(t for t in threading.enumerate() if "reader" in t.name)]


@pytest.fixture(autouse=True)
def nothing_stays():
    before = torch.get_rng_state()
    yield
    gc.collect()  # of states that were stepped by hand, outside a run
    end = time.monotonic() + 10  # a thread that is no longer wanted ends by itself, a little later
    while readers() and time.monotonic() < end:
        time.sleep(0.01)
    assert not readers(), "left behind"
    assert torch.equal(before, torch.get_rng_state())


# --- the same draws ---


STREAMED = [name for name in SAMPLERS if name != "hmc_adapting"]


@pytest.mark.parametrize("name", some_slow(STREAMED, fast=("hmc", "split_hmc", "amagold", "sghmc_cyclical")))
def test_streamed_draws_are_those_in_memory(name, mapped):
    options = {"burn_in": 30} if "adjusted" in name else {}
    assert torch.equal(
        draws(posterior((mapped, Y), stream=True), name, **options), draws(posterior(), name, **options)
    )


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("kind", [Rows, Together])
def test_the_number_of_workers_changes_no_draw(kind, num_workers):
    target = posterior(kind(), stream=True, num_workers=num_workers)
    assert torch.equal(draws(target), draws(posterior()))
    assert torch.equal(draws(target, "hmc"), draws(posterior(), "hmc"))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")
@pytest.mark.parametrize("pin", [False, True])
def test_what_a_worker_wrote_stays_until_the_next_batch(pin, monkeypatch):
    """However far the workers are ahead: one message a batch, so that their places are used again."""
    monkeypatch.setattr(sources, "_AHEAD", 1)
    target = posterior(Rows(), stream=True, num_workers=2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0)).split(7)
    with target.stream.source.reader((rows.tolist() for rows in order), 7, 24, pin=pin) as reader:
        for rows, (x, y) in zip(order, reader, strict=True):
            time.sleep(0.03)
            assert torch.equal(x, X[rows])
            assert torch.equal(y, Y[rows])


@pytest.mark.parametrize("path", ["traced", pytest.param("loop", marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch_size", [16, 50])
def test_recorded_steps_read_the_buffers(path, batch_size):
    """A step on one pass is recorded or compiled as it would be in memory; of two passes, the rest is."""

    def thetas(**options):
        target = posterior(**options).prepared(path=path)
        sampler = hmc_fast.SGHMC(0.02, friction=5.0, batch_size=batch_size, steps_per_iteration=7)
        state = sampler.init(target, target.initial("prior", 2, 0), seed=1)
        return torch.stack([sampler.step(state)[0].theta.clone() for _ in range(3)])

    assert torch.equal(thetas(stream=True), thetas())


def test_several_inputs_and_columns_of_labels():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = network()

        def forward(self, first, second):
            return self.layer(torch.cat([first, second], 1))

    def go(x, y, **options):
        return draws(hmc_fast.Posterior(Sum(), (x, y), micro_batch_size=30, **options))

    split = {"first": X[:, :3].numpy(), "second": X[:, 3:]}
    expected = go(split, Y)
    assert torch.equal(go(split, Y.numpy()[:, None].astype(np.uint16), stream=True), expected)
    assert torch.equal(go((X[:, :3], X[:, 3:]), Y, stream=True), expected)


def test_a_minibatch_or_rows_of_ones_own():
    theta = posterior().initial("prior", 3, 0)
    rows = (
        torch.arange(N)[torch.randperm(N, generator=torch.Generator().manual_seed(1))].view(2, 40).repeat(2, 1)[:3]
    )
    for indices in (None, rows):
        for a, b in zip(
            posterior(stream=True).potential_and_grad(theta, indices),
            posterior().potential_and_grad(theta, indices),
            strict=True,
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["hmc", "sghmc_cyclical"])
def test_a_resumed_run_continues_in_its_order(name, tmp_path, monkeypatch):
    whole = draws(posterior(), name)
    target = posterior(Rows(), stream=True, num_workers=2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            draws(target, name, out=tmp_path / "run")
    assert torch.equal(draws(target, name, out=tmp_path / "run", resume=True), whole)


def test_a_run_in_memory_goes_on_streamed(mapped, tmp_path, monkeypatch):
    """The data are known by their values, wherever they are and in whatever type."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            draws(posterior(), out=tmp_path / "run")
    resumed = draws(posterior((mapped, Y), stream=True), out=tmp_path / "run", resume=True)
    assert torch.equal(resumed, draws(posterior()))
    with pytest.raises(hmc_fast.UserError, match="data"):
        draws(posterior((X + 1, Y), stream=True), out=tmp_path / "run", resume=True)


def test_predictions_and_choices_need_no_data_in_memory(capsys):
    run = hmc_fast.run(
        posterior(stream=True), SAMPLERS["sghmc"](), chains=2, burn_in=2, draws=100, test=(X[:9], Y[:9])
    )
    assert run.test.probs.shape == (9, 3)
    said = capsys.readouterr().err
    assert re.search(r"data: .* are streamed, as asked", said)
    assert "gradient: vmap traced" in said, "a minibatch step is recorded as in memory"


def test_passes_that_break_off_begin_again():
    """An order that is left in the midst is not continued by the next pass."""
    target = posterior(stream=True)
    with target.stream.open():
        for _ in range(2):
            passes = target.stream.in_order(30)
            assert torch.equal(next(passes)[1], X[:30])
            assert torch.equal(next(passes)[1], X[30:60])
            passes.close()
            assert [part.start for part, x, _ in target.stream.in_order(30) if torch.equal(x, X[part])] == [
                0,
                30,
                60,
            ]
    assert target.to("cpu").stream is target.stream


def test_labels_of_any_shape():
    def far(outputs, y):
        return -(outputs[:, :2] - y).square().sum(1)

    made = (hmc_fast.Posterior(network(), (X, X[:, :2]), far, stream=s, micro_batch_size=30) for s in (True, False))
    assert torch.equal(*map(draws, made))


# --- in memory or not ---


def test_what_fits_is_kept_and_what_does_not_is_streamed(monkeypatch, capsys):
    for data in ((X, Y), Rows(), TensorDataset(X, Y)):
        assert posterior(data).stream is None
    monkeypatch.setattr(streaming, "free_memory", lambda device: 2 * N * 24 - 1)
    for data in ((X, Y), Rows(), TensorDataset(X, Y)):
        target = posterior(data)
        assert "more than half of the 3.7 KiB free on cpu" in target.stream.note
        assert posterior(data, stream=False).stream is None
    draws(target, progress=True)
    assert capsys.readouterr().err.count("are streamed, more than half") == 1
    monkeypatch.setattr(streaming, "free_memory", lambda device: 2 * N * 24)
    assert posterior().stream is None


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_is_never_read_whole(order, tmp_path, monkeypatch):
    """Its pages come and go; what is allocated are batches."""
    monkeypatch.undo()
    count, width = (2**17, 256) if order == "C" else (2**15, 256)
    with open(tmp_path / "x", "wb") as file:
        file.truncate(4 * count * width)  # sparse: zeros that take no room
    x = np.memmap(tmp_path / "x", mode="r", dtype=np.float32, shape=(count, width), order=order)
    y = np.arange(count) % 2
    sampler = hmc_fast.SGHMC(1e-3, friction=10.0, batch_size=16, steps_per_iteration=4)

    def sample(rows):
        target = hmc_fast.Posterior(network(width), (x[:rows], y[:rows]), stream=True)
        hmc_fast.run(target, sampler, chains=1, burn_in=0, draws=2, progress=False)

    sample(64)  # imports what it needs, which takes memory, too
    tracemalloc.start()
    try:
        sample(count)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2 + y.nbytes
    assert peak < 60e6


# --- data that change ---


def noisy(row, x):
    return x + torch.randn(4)


def test_augmentation_is_refused_by_full_batch_samplers_and_told_to_the_others(capsys):
    with pytest.raises(hmc_fast.UserError, match=r"gave another example the second time.*augmentation"):
        posterior(Rows(noisy), stream=False)
    target = posterior(Rows(noisy))
    for name in ("hmc", "amagold", "sghmc_full_batch", "split_hmc"):
        with pytest.raises(hmc_fast.UserError, match=r"the Dataset Rows gives other examples.*augmentation.*SGHMC"):
            draws(target, name)
    with torch.random.fork_rng():  # from which these transforms draw
        assert draws(target, progress=True).isfinite().all()
    assert capsys.readouterr().err.count("gives other examples with every access") == 1


def test_a_rare_augmentation_is_noticed():
    """One that changes every other example, and not the first ones."""

    def sometimes(row, x):
        return x * (1 if row < 5 or torch.rand(()) < 0.5 else -1)

    with torch.random.fork_rng():
        for seed in range(6):
            torch.manual_seed(seed)
            assert posterior(Rows(sometimes)).stream


def test_data_that_changed_since():
    x = X.clone()
    target = posterior((x, Y), stream=True)
    x.neg_()
    with pytest.raises(hmc_fast.UserError, match="data changed after the posterior was made"):
        draws(target)
    rows = Rows()
    target = posterior(rows, stream=True)
    rows.count = N - 1
    with pytest.raises(hmc_fast.UserError, match="had 80 examples and now has 79"):
        draws(target)


# --- what is wrong ---


def fails(row, x):
    if row == 37:
        raise ValueError("no such file")
    return x


def late(row, x):
    """Fails once a file exists."""
    if row == 37 and os.path.exists(FAILING):
        raise ValueError("no such file")
    return x


def ends(row, x):
    if row == 37 and os.path.exists(FAILING):
        os.kill(os.getpid(), signal.SIGKILL)
    return x


BAD = {
    "an example that fails": (
        lambda: Rows(fails),
        r"example 37 of the Dataset Rows cannot be read \(ValueError: no",
    ),
    "with batches": (lambda: Together(fails), r"example 37 of the Dataset Together cannot be read"),
    "ragged": (lambda: Rows(lambda row, x: x[:3] if row == 50 else x), "do not stack .*, first example 50"),
    "no pair": (lambda: Rows(lambda row, x: x if row != 50 else None), "do not stack|must be"),
    "NaN": (lambda: Rows(lambda row, x: x / 0 if row == 41 else x), "X contains NaN or infinity in row 41"),
    "a label": (lambda: (X, torch.where(torch.arange(N) == 10, 7, Y)), "labels must be integers in 0..2.*0..7"),
    "lengths": (lambda: (X[:9], Y), "X has 9 examples but y has 80"),
    "numbers": (lambda: (torch.tensor(1.0), torch.tensor(2.0)), "one row per example"),
    "empty": (lambda: (X[:0], Y[:0]), "must contain at least one example"),
    "text": (lambda: (np.array([["a"]] * N), Y), "X holds <U1.*encoded"),
}


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named(case, num_workers):
    data, message = BAD[case]
    with pytest.raises(hmc_fast.UserError, match=message):
        posterior(data(), stream=True, num_workers=num_workers)


def test_options_are_checked():
    with pytest.raises(hmc_fast.UserError, match="stream 'yes' is unknown"):
        posterior(stream="yes")
    with pytest.raises(hmc_fast.UserError, match="num_workers -1"):
        posterior(num_workers=-1)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # torch's handler may meet a lock's end
@pytest.mark.parametrize(
    ("spoil", "message"), [(late, "example 37 of"), (ends, r"a worker .* ended .*num_workers=0")]
)
@pytest.mark.parametrize("name", ["hmc", pytest.param("sghmc", marks=pytest.mark.slow)])
def test_failures_in_workers_reach_the_user(spoil, message, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = posterior(Rows(spoil), stream=True, num_workers=2)
    with target.stream.open():  # so that workers run when the example begins to fail
        draws(target, name)
        (tmp_path / FAILING).touch()
        with pytest.raises(hmc_fast.UserError, match=message):
            draws(target, name, draws=40, out=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run that failed leaves nothing"
    (tmp_path / FAILING).unlink()
    assert torch.equal(draws(target, name), draws(posterior(), name))


@pytest.mark.parametrize("name", ["sghmc", "hmc"])
@pytest.mark.parametrize("data", [None, Rows()])
def test_what_reads_ends_with_a_run_whose_state_is_kept(data, name):
    target, sampler = posterior(data, stream=True, num_workers=2), SAMPLERS[name]()
    with target.stream.open():
        state = sampler.init(target, target.initial("prior", 2, 0), seed=0)
        sampler.step(state)
        assert readers()
    assert not readers()
    sampler.step(state)  # begins again
    del state


def test_a_worker_that_ends_before_the_first_iteration_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = posterior(Rows(ends), stream=True, num_workers=2)
    (tmp_path / FAILING).touch()
    monkeypatch.setattr(target.stream.source, "spots", lambda: target.stream._spots)  # of this process
    with pytest.raises(hmc_fast.UserError, match="a worker that reads"):
        draws(target, "hmc")


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_half_a_message_of_a_killed_worker_is_told(error, monkeypatch):
    def broken(self):
        raise error

    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_next_data", broken)
    with pytest.raises(
        hmc_fast.UserError, match=r"a worker that reads the Dataset ended .(EOFError|.*reset by peer)"
    ):
        posterior(Rows(), stream=True, num_workers=1)


SCRIPT = """
    import sys, torch, hmc_fast, multiprocessing
    torch.set_num_threads(1)
    from torch.utils.data import Dataset
    class Rows(Dataset):
        def __len__(self):
            return 60
        def __getitem__(self, row):
            return torch.full((3,), float(row)), row % 2
    class Telling(hmc_fast.HMC):
        def step(self, state, batch=None, *, warming_up=False):
            done = super().step(state, warming_up=warming_up)
            if state.iteration.count == 1:
                print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            return done
    target = hmc_fast.Posterior(torch.nn.Linear(3, 2), Rows(), stream=True, num_workers=2, micro_batch_size=10)
    sampler = Telling(1e-4, num_leapfrog=100)  # an iteration needs far more batches than are read ahead
    hmc_fast.run(target, sampler, chains=1, burn_in=0, draws=10**6, out=sys.argv[1], progress=False)
"""


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes_and_leaves_none(tmp_path):
    """From a terminal, workers get the signal too. Code without a guard may use them."""
    command, pipe = [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path / "run"], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Interrupted" in said.strip().split("\n")[-1]
    assert (tmp_path / "run" / "checkpoint").is_dir()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
