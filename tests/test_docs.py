"""What the pages in docs/ show works, and the sampler of protocol.md samples the right distribution."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from cases import sample
from targets import linear_regression

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"


def langevin(folder, monkeypatch):
    """The class that the page defines, from a module of its own: torch.compile looks globals up by module."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 40, "a new sampler must stay a small thing to write"
    (folder / "protocol_page.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module("protocol_page").Langevin


def test_the_example_of_the_protocol_page_samples_the_posterior(tmp_path, monkeypatch):
    posterior, known = linear_regression()
    sampler = langevin(tmp_path, monkeypatch)(2e-4, num_steps=20)
    run = sample(posterior, sampler, chains=64, burn_in=20, draws=40, compile=False)
    draws = np.asarray(run.draws).reshape(-1, 2)
    assert np.abs(draws.mean(0) - known.mean).max() < 0.5 * np.sqrt(known.variance).min()
    assert np.all(draws.var(0) / known.variance < 1.6)
    assert np.all(draws.var(0) / known.variance > 0.7)


@pytest.mark.slow
def test_the_example_of_the_protocol_page_compiles_and_resumes(tmp_path, monkeypatch):
    posterior, _ = linear_regression()
    sampler = langevin(tmp_path, monkeypatch)(2e-4, num_steps=20)
    options = {"chains": 4, "burn_in": 1, "draws": 5}
    plain = sample(posterior, sampler, compile=False, **options)
    compiled = sample(posterior, sampler, compile=True, out=tmp_path / "run", **options)
    np.testing.assert_allclose(plain.draws, compiled.draws, rtol=1e-4, atol=1e-5)
    again = sample(posterior, sampler, compile=True, out=tmp_path / "run", resume=True, **options)
    assert np.array_equal(again.draws, compiled.draws)


def test_the_examples_of_the_page_on_models_and_data_run(capsys):
    text = (PAGE.parent / "models_and_data.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    for block in code:
        exec(block, names)
    shown = capsys.readouterr().out
    for printed in re.findall(r"print\(.*\)  # (.*)", text):
        assert printed in shown
    assert len(code) == 9
