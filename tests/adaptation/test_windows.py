"""Stan's windows."""

from hmc_fast.adaptation import (
    Windows,
)


def test_windows_are_those_of_stan():
    windows = Windows.of(1000)
    assert windows.first == 75
    assert windows.ends == (100, 150, 250, 450, 950)
    assert [i for i in range(1000) if windows.closes(i)] == [99, 149, 249, 449, 949]
    assert not windows.is_slow(74)
    assert windows.is_slow(75)
    assert windows.is_slow(949)
    assert not windows.is_slow(950)
    assert Windows.of(1500).ends == (100, 150, 250, 450, 1450)  # one of 400 would leave no room for one of 800
    assert Windows.of(100).ends == (90,)  # too short for Stan's lengths: 15, 75 and 10 %
    for burn_in in range(1, 300):
        assert all(0 < end <= burn_in for end in Windows.of(burn_in).ends)
