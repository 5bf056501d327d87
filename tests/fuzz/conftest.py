"""Every target runs in a folder of its own; at the end the inputs are counted."""

import pytest

import fuzzing

NUMBERS = [pytest.param(10, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)]


@pytest.fixture(params=NUMBERS)
def number(request):
    """How many inputs a target gets."""
    return request.param


def pytest_terminal_summary(terminalreporter):
    for target, count in fuzzing.COUNTS.items():
        terminalreporter.write_line(f"{target}: {count:,} inputs, {fuzzing.SPENT[target]:.1f} s")
    if fuzzing.COUNTS:
        terminalreporter.write_line(f"peak memory {fuzzing.peak() / 2**20:,.0f} MiB")
