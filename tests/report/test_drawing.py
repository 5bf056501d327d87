"""The style of figures."""

from hmc_fast.report.drawing import style


def test_the_callers_matplotlib_is_left_alone() -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0}):
        before = dict(matplotlib.rcParams)
        with style():
            assert matplotlib.rcParams["font.size"] < 12
        assert dict(matplotlib.rcParams) == before
