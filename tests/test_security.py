"""Nothing that a file contains is ever run, and no page contains what a file says as anything but text."""

import ast
import json
from pathlib import Path

import pytest

import hmc_fast.report.__main__ as report
from finished_run import make_run

ROOT = Path(__file__).parent.parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    "hmc_fast/compute/recording.py": {"exec"},  # of source that it wrote itself, from recorded operations
    "hmc_fast/user_code.py": {"import_module"},  # of a name on the command line
    "hmc_fast/experiments/__main__.py": {"import_module"},  # of one of NAMES
    "hmc_fast/experiments/compared_methods.py": {"import_module"},  # of the package laplace
}


def dangers(tree):
    """Names of what may run or unpickle the contents of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            found = (
                {(module or alias.name).split(".")[0] for alias in node.names}
                if not getattr(node, "level", 0)
                else set()
            )
            yield from found & MODULES
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if (name in CALLS and isinstance(node.func, ast.Name)) or name == "import_module":
            yield name
        if given.get("allow_pickle", False) is not False:
            yield "allow_pickle"
        if owner == "torch" and name == "load" and given.get("weights_only") is not True:
            yield "torch.load"


@pytest.mark.parametrize("folder", ["hmc_fast", "kernels", "benchmarks"])
def test_sources_unpickle_and_run_nothing(folder):
    found = {}
    for file in (ROOT / folder).rglob("*.py"):
        name = str(file.relative_to(ROOT))
        if new := set(dangers(ast.parse(file.read_text()))) - ALLOWED.get(name, set()):
            found[name] = new
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import yaml.loader", "eval(x)", "exec(x)", "torch.load(p)",
        "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=flag)",
        "importlib.import_module(x)",
    ],
)  # fmt: skip
def test_a_danger_is_found(source):
    assert list(dangers(ast.parse(source)))


def test_a_report_runs_no_code_that_the_run_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", data="evil:make")
    Path("evil.py").write_text("open('was_run', 'w').close()\ndef make(): pass\n")
    assert report.main(["run"]) == 0
    assert not Path("was_run").exists()
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "add --data &#39;evil:make&#39;" in page
    assert report.main(["run", "--data", "evil:make"]) == 0
    assert Path("was_run").exists()


def test_a_report_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", lambda *_, **__: pytest.fail("downloaded"))
    (tmp_path / "data").mkdir()
    make_run(tmp_path / "run", data="fashion-mnist", data_dir=str(tmp_path / "data"))
    assert report.main([str(tmp_path / "run")]) == 0
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("argv", [["run"], ["run", "other"]])
def test_pages_escape_what_a_run_says(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attack = "</td><script>alert(1)</script>"
    for name in ("run", "other"):
        make_run(tmp_path / name, model=attack + name, **{attack: name}, data=attack)
        path = tmp_path / name / "metrics.json"
        words = dict.fromkeys(("preset", "device", "sampler", "seed"), attack)
        path.write_text(json.dumps(json.loads(path.read_text()) | words | {"diagnosis": [attack]}))
    assert report.main(argv) == 0
    page = Path("run/report.html" if len(argv) == 1 else "comparison.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
