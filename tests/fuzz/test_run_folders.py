"""The folder of a finished run, damaged in any way, through report and comparison.

Figures are drawn but not rendered, except in `test_figures`, which renders them and so tries fewer inputs.
"""

import errno
import io
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hmc_fast.report.__main__ as report
from finished_run import make_run
from fuzzing import CELLS, JSON, accepts, command, edited, edits, examples, places, with_cells
from hmc_fast.errors import UserError
from hmc_fast.report import drawing
from hmc_fast.results.run_folder_reader import CLASSIFICATION, METRIC_NUMBERS, REGRESSION, read_run

CONFIG = ("temperature", "batch_size", "data", "data_dir", "split", "versions", "step_size", "new")
NUMBERS = st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e99, 5e-324, -1.0, 0.0, 2.5, 2.0**63])
KINDS = st.sampled_from(["values", "type", "shape", "gone", "declared"])
DTYPES = st.sampled_from(["f2", "f4", ">f8", "i1", "u8", "?", "U3", "c8", "M8[s]"])


@pytest.fixture(scope="module", params=["classification", "regression"])
def made(request, tmp_path_factory):
    """A small finished run."""
    import finished_run

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CHAINS": 2, "BURN_IN": 4, "DRAWS": 10, "TEST": 30, "CLASSES": 3}.items():
            patch.setattr(finished_run, name, value)
        directory = tmp_path_factory.mktemp("finished") / "run"
        return make_run(directory, regression=request.param == "regression", data="digits", temperature=1.0)


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def read(target, run, name, content):
    """Reads the run with another content of one file, which is then put back."""
    path = run / name
    usual = path.read_bytes()
    path.write_bytes(content)
    try:
        return accepts(target, read_run, run)
    finally:
        path.write_bytes(usual)


def changed_json(raw, changes):
    content = json.loads(raw)
    for key, value in changes:
        content[key] = value
    return json.dumps(content).encode()


def changed_arrays(path, changes):
    """The archive with some of its arrays replaced; a declared size is that of the header alone."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    buffer, declared = io.BytesIO(), {}
    for name, kind, value, dtype, place in changes:
        if name not in arrays:
            continue
        array = arrays[name]
        if kind == "values":
            array = array.astype(np.float64)
            array.reshape(-1)[int(place * array.size)] = value
        elif kind == "type":
            with np.errstate(all="ignore"):
                array = np.zeros(array.shape, dtype) if dtype in ("U3", "M8[s]") else array.astype(dtype)
        elif kind == "shape":
            array = array[: int(place * len(array))] if place < 0.5 else array[..., None]
        elif kind == "gone":
            del arrays[name]
            continue
        else:
            declared[name] = (2 ** int(place * 70), *array.shape[1:])
        arrays[name] = array
    np.savez(buffer, **arrays)
    raw = buffer.getvalue()
    for name, shape in declared.items():
        if name in arrays:
            raw = raw.replace(str(arrays[name].shape).encode(), str(shape).encode(), 1)
    return raw


arrays = st.lists(
    st.tuples(st.sampled_from([*CLASSIFICATION, *REGRESSION]), KINDS, NUMBERS, DTYPES, places),
    max_size=2,
    unique_by=lambda change: change[0],
)
configs = st.lists(st.tuples(st.sampled_from(CONFIG), JSON), max_size=3)
metrics = st.lists(
    st.tuples(st.sampled_from([*METRIC_NUMBERS, "diagnosis", "diagnosis_kinds", "preset", "seed", "device"]), JSON),
    max_size=3,
)


def test_json(number, run):
    config, scores = (run / "config.json").read_bytes(), (run / "metrics.json").read_bytes()

    @examples(5 * number)
    @given(configs, metrics, edits)
    @example([("temperature", 10**400)], [], [])
    @example([("temperature", [])], [], [])
    @example([], [("accuracy", 10**400)], [])
    @example([], [("diagnosis_kinds", 3), ("diagnosis", ["x"])], [])
    @example([], [("diagnosis_kinds", [[]]), ("diagnosis", ["x"])], [])
    @example([], [("chains", True)], [])
    def holds(of_config, of_metrics, damage):
        read("config.json", run, "config.json", edited(changed_json(config, of_config), damage))
        read("metrics.json", run, "metrics.json", edited(changed_json(scores, of_metrics), damage))

    holds()


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b'{"a": ' + b"9" * 9999 + b"}"]
)
@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_nested_and_long_json(name, raw, run):
    assert read(name, run, name, raw) is None


def test_trace(number, run):
    text = (run / "trace.csv").read_text()

    @examples(5 * number)
    @given(st.lists(st.tuples(places, places, CELLS), max_size=3), edits)
    def holds(changed, damage):
        read("trace.csv", run, "trace.csv", edited(with_cells(text, changed).encode(), damage))

    holds()


def test_predictions(number, run):
    @examples(5 * number)
    @given(arrays, edits)
    @example([("labels", "declared", 0.0, "f4", 0.99)], [])
    def holds(changes, damage):
        read(
            "predictions.npz",
            run,
            "predictions.npz",
            edited(changed_arrays(run / "predictions.npz", changes), damage),
        )

    holds()


def test_an_archive_that_unpacks_to_gigabytes_is_refused(run):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=np.zeros(2**27 + 1, np.float32))
    (run / "predictions.npz").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="unpacks to more than 536,870,912 bytes"):
        read_run(run)


@st.composite
def damaged_runs(draw):
    """By file: what is wrong with it, mostly in one that still reads."""
    cell = st.tuples(places, places, CELLS)
    return draw(configs), draw(metrics), draw(st.lists(cell, max_size=2)), draw(arrays)


def damage(run, made, damaged):
    of_config, of_metrics, of_trace, of_arrays = damaged
    (run / "config.json").write_bytes(changed_json((made / "config.json").read_bytes(), of_config))
    (run / "metrics.json").write_bytes(changed_json((made / "metrics.json").read_bytes(), of_metrics))
    (run / "trace.csv").write_text(with_cells((made / "trace.csv").read_text(), of_trace))
    (run / "predictions.npz").write_bytes(changed_arrays(made / "predictions.npz", of_arrays))


def test_report_and_comparison(number, run, made, monkeypatch):
    monkeypatch.setattr(drawing, "png", lambda figure: b"png")
    shutil.copytree(made, run.parent / "other")
    (run / "figures").mkdir()

    @examples(number // 2)
    @given(damaged_runs())
    @example(([("data", "os:getcwd")], [], [], []))
    @example(([("data_dir", "\0"), ("data", "fashion-mnist")], [], [], []))
    @example(([("a", "\ud800")], [("preset", "\ud800")], [], []))
    def holds(damaged):
        damage(run, made, damaged)
        command("report of a damaged run", report.main, ["run"], run.parent)
        command("comparison", report.main, ["run", "other"], run.parent)

    holds()


@pytest.mark.slow
def test_figures(run, made, monkeypatch):
    monkeypatch.setattr(drawing, "DPI", 20)
    (run / "figures").mkdir()

    @examples(25)
    @given(damaged_runs())
    def holds(damaged):
        damage(run, made, damaged)
        command("report with figures", report.main, ["run"], run.parent)

    holds()


def test_a_report_that_cannot_be_written_is_one_line(run, monkeypatch):
    (run / "figures").write_text("a file")
    assert command("report of a damaged run", report.main, ["run"], run.parent) == 2
    (run / "figures").unlink()

    def refuse(path, flags, *mode):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *mode)

    real = os.open
    (run / "figures").mkdir()
    monkeypatch.setattr(os, "open", refuse)
    assert command("report of a damaged run", report.main, ["run"], run.parent) == 2
    assert command("comparison", report.main, ["run", str(shutil.copytree(run, run.parent / "b"))], run.parent) == 2
