"""The suites as entries of pytest-benchmark.

A test is one provider of one case. The first test of a case times all its selected providers in turns (a suite's
cached function `timed`); each test then reports its own samples. pytest-benchmark reads the duration of a call
from a timer: here from a clock that every replayed sample moves on by what was measured.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from common import Record, Row, commit, compute_device, device_name, versions
from pytest_benchmark.logger import PytestBenchmarkWarning

ASIDE = pytest.StashKey[list[Row]]()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, help="samples of each provider (default: 3 or 5, each suite's own)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ASIDE] = []
    if config.getoption("benchmark_columns", None) is None:  # the means of a shared machine say little
        config.option.benchmark_columns = ["median", "min", "max", "rounds"]
    # The plugin warns of a session or a test that timed nothing. Warnings are errors in this project, so a run that
    # is stopped would end in a traceback. The first line holds inside pytest's own hooks, the second outside.
    config.addinivalue_line("filterwarnings", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning")
    warnings.filterwarnings("ignore", category=PytestBenchmarkWarning)


def pytest_sessionstart(session: pytest.Session) -> None:
    if terminal := session.config.pluginmanager.get_plugin("terminalreporter"):
        session.config.pluginmanager.register(Live(terminal))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.benchmark(timer=CLOCK))
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # of other libraries


@pytest.fixture
def providers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Those of this test's case that are to run (all, or what `-k` leaves)."""
    case, module = request.node.callspec.params["case"], request.node.getparent(pytest.Module)
    tests = [item for item in request.session.items if item.getparent(pytest.Module) is module]
    return tuple(t.callspec.params["provider"] for t in tests if t.callspec.params["case"] == case)


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> int | None:
    return pytestconfig.getoption("--rounds")


@pytest.fixture(scope="session")
def aside(pytestconfig: pytest.Config) -> list[Row]:
    """Rows that belong to no timed provider: rates, slopes, a peer that does different work."""
    return pytestconfig.stash[ASIDE]


@pytest.fixture
def record(benchmark, request: pytest.FixtureRequest) -> Record:  # type: ignore[no-untyped-def]
    """record(group, samples, rows) enters this test's samples, in seconds, and its rows of the tidy table."""

    def record(group: str, samples: Sequence[float], rows: list[Row]) -> None:
        benchmark.group = group
        benchmark.extra_info["rows"] = rows
        replayed = iter(samples)

        def replay() -> None:
            CLOCK.now += next(replayed)

        benchmark.pedantic(replay, rounds=len(samples))
        request.node.user_properties += [("measured", sentence(row)) for row in rows]

    return record


def sentence(row: Row) -> str:
    spread = f" ({row['q20']:.3g}-{row['q80']:.3g})" if row["samples"] > 1 else ""
    what = f"{row['name']}, {row['provider']}, {row['size']:,}, {row['metric']}"
    return f"{what}: {row['median']:.4g}{spread} {row['unit']}".rstrip()


class Live:
    """Prints what was measured as soon as it was: of a run that is cut off this remains."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for _, line in report.user_properties if report.when == "call" else ():
            self.terminal.ensure_newline()
            self.terminal.write_line(f"  {line}", flush=True)


def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    machine_info.update(device=device_name(compute_device()), versions=versions(), commit=commit())


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, object]) -> None:
    output_json["rows"] = config.stash[ASIDE]
