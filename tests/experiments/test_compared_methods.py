"""Methods that may be missing."""

import sys
from pathlib import Path

import pytest

from hmc_fast.experiments.compared_methods import missing_laplace


def test_a_library_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, told in (
        ("raise RuntimeError('it is broken')", "cannot be imported (it is broken)"),
        ("import no_such_module", "cannot be imported (No module named 'no_such_module')"),
        ("raise ModuleNotFoundError(name='laplace')", "is not installed"),
    ):
        (tmp_path / "laplace.py").write_text(content)
        monkeypatch.delitem(sys.modules, "laplace", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        assert told in missing_laplace()
        (tmp_path / "laplace.py").unlink()
