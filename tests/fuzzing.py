"""What every input must satisfy, and inputs that seldom do: odd values of flags, and valid files that were damaged.

An input may be accepted, or refused with UserError; a command then prints one line and exits with status 2. Nothing
else may happen: no other error, no file left behind, no gigabyte of memory, and none of it may take long.
"""

import contextlib
import io
import os
import resource
import time
import warnings
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hmc_fast.errors import UserError

SECONDS, BYTES = 10.0, 2**30
COUNTS = Counter()  # inputs, by target
SPENT = Counter()  # seconds, by target


class Planned(Exception):
    """Raised in place of long work: an input that comes so far is accepted."""


def examples(number):
    """Settings for `number` examples, always the same ones, unless HMC_FAST_FUZZ asks for many others."""
    many = int(os.environ.get("HMC_FAST_FUZZ", 0))
    return settings(
        max_examples=many or number,
        derandomize=not many,
        database=None,
        deadline=None,  # `bounded` has one
        suppress_health_check=list(HealthCheck),
    )


def peak():
    """Bytes that the process has had in memory at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def bounded(target):
    """Fails if its block takes too long or too much memory; warnings of libraries are no errors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    begin, before = time.perf_counter(), peak()
    mapped = os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (mapped + 4 * BYTES, hard)
    )  # rather a MemoryError than the machine's end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    seconds = time.perf_counter() - begin
    COUNTS[target] += 1
    SPENT[target] += seconds
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert peak() - before < BYTES, f"{peak() - before:,} bytes"


def accepts(target, function, *arguments, **options):
    """What the function returns, or None if it refuses its arguments in one line."""
    with bounded(target):
        try:
            return function(*arguments, **options)
        except UserError as error:
            refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 2000
    return None


def command(target, main, argv, folder):
    """The status of a command that is run in `folder`; checks what it prints and leaves there."""
    out, err, here, before = io.StringIO(), io.StringIO(), os.getcwd(), files(folder)
    os.chdir(folder)
    try:
        with bounded(target), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(argv)
            except SystemExit as stop:
                status = stop.code
            except Planned:
                status = 0
    finally:
        os.chdir(here)
    assert status in (0, 2), (status, argv)
    if status == 2:
        lines = err.getvalue().splitlines()
        assert len([line for line in lines if ": error: " in line]) == 1, lines
        assert ": error: " in lines[-1], lines
        assert len(lines[-1]) < 2000, lines[-1]
        assert files(folder) == before, (files(folder) ^ before, lines[-1])
    return status


def files(folder):
    return {
        os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names if name != "lock"
    } | {parent for parent, _, _ in os.walk(folder)}


# --- values of flags ---

ODD = [
    "nan", "inf", "-inf", "-0.0", "5e-324", "1e308", "1e12", "1e-300", "-1", "0", "1", "2", "7", "0.5",
    "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400,
    "9" * 5000, "1e999999999", "0x10", "1_000", "", " ", "\0", "a\0b", "\ud800", "é", "\u202e", "a\nb", "%s", "{}",
    "--", "-", "--out", "true", "null", "None", "auto", "a" * 300, "a" * 5000, "digits", "uci-", "uci-../x",
    "uci-concrete", "fashion-mnist", "no_such:thing", ":", "9" * 400 + "GB", "512MB", "0.5GB", "1b", "prior",
    "model", "cuda:99", "cpu", "meta",
]  # fmt: skip
# No path out of the folder: the commands write where they are told.
words = st.text(max_size=40).filter(lambda text: "/" not in text and not text.startswith(".."))
values = (
    st.sampled_from(ODD)
    | words
    | st.integers().map(str)
    | st.integers(-3, 12).map(str)
    | st.floats().map(str)
    | st.floats(0, 2).map(str)
)


def command_lines(names, presets=("digits",)):
    """Arguments: perhaps a preset, then some flags with any values, or none, or the --no- form."""
    flag = st.sampled_from([*names, "--no-such-flag"])
    given_value = st.tuples(flag, values).map(list) | st.tuples(flag, values).map(lambda pair: ["=".join(pair)])
    given_none = flag.map(lambda name: [name]) | flag.map(lambda name: [f"--no-{name[2:]}"])
    flags = st.lists(given_value | given_value | given_value | given_none, max_size=4)
    preset = st.sampled_from([[], [], *([name] for name in presets)]) | values.map(lambda word: [word])
    return st.tuples(preset, flags).map(lambda parts: (parts[0], [word for flag in parts[1] for word in flag]))


# --- files ---

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400, 5e-324, 1e308, float("nan"), float("inf"), -0.0])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["<script>alert(1)</script>", "\ud800", "\0", "a" * 300, "digits", "os:getcwd"]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=8,
)


places = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.tuples(st.just("flip"), places, st.integers(0, 7))
    | st.tuples(st.just("set"), places, st.sampled_from([0, 0xFF, 0x7F, 0x80]))
    | st.tuples(st.just("cut"), places, st.just(0))
    | st.tuples(st.just("remove"), places, st.integers(1, 64))
    | st.tuples(st.just("repeat"), places, st.integers(1, 64))
    | st.tuples(st.just("insert"), places, st.binary(max_size=16)),
    max_size=4,
)


def edited(raw, edits):
    """The bytes with these edits; a place is a share of what there is."""
    raw = bytearray(raw)
    for kind, place, what in edits:
        at = int(place * len(raw))
        if kind == "cut":
            del raw[at:]
        elif kind == "remove":
            del raw[at : at + what]
        elif kind == "repeat":
            raw[at:at] = raw[at : at + what]
        elif kind == "insert":
            raw[at:at] = what
        elif raw:
            raw[at] = raw[at] ^ (1 << what) if kind == "flip" else what
    return bytes(raw)


CELLS = st.sampled_from([
    "", " ", "nan", "inf", "-inf", "1e308", "1e400", "5e-324", "-1", "0", "1", "9" * 30, "9" * 400, "true", "x",
    "\"", "\0", "é", "1.5", "2147483648", "9223372036854775808", "burn_in", "sampling", "a,b", "\n", "0x1", "1_0",
]) | st.floats().map(str) | st.integers().map(str)  # fmt: skip
cells = st.lists(st.tuples(places, places, CELLS), max_size=3)


def with_cells(text, cells, separator=","):
    """A table with some of its cells replaced."""
    rows = [line.split(separator) for line in text.splitlines()]
    for row, column, value in cells:
        line = rows[int(row * len(rows))]
        line[int(column * len(line))] = value
    return "\n".join(separator.join(row) for row in rows) + "\n"
