"""Imports go downward only, and importing the package is light and leaves no trace."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each part may import of the project; a part is a file or a folder. Higher lines use lower ones.
ALLOWED = {
    "hmc_fast/sample.py": {
        *("artifacts", "cli", "datasets", "device", "engine", "errors", "flat", "models", "posterior", "presets"),
        *("jsonfile", "priors", "report", "result", "runner", "samplers", "schedules", "streams", "train"),
    },
    "hmc_fast/experiments": {
        *(
            "artifacts",
            "cli",
            "datasets",
            "device",
            "diagnostics",
            "engine",
            "errors",
            "flat",
            "jsonfile",
            "models",
        ),
        *("posterior", "predictions", "presets", "report", "sample", "__version__"),
        *("answer", "baselines", "contenders", "corruptions", "lab", "methods", "settings"),  # of the folder
    },
    "hmc_fast/train.py": {"cli", "datasets", "device", "errors", "likelihoods", "models", "streams"},
    "hmc_fast/presets.py": {"errors"},
    "hmc_fast/artifacts.py": {"diagnostics", "predictions", "result"},
    "hmc_fast/report": {
        *("cli", "datasets", "errors", "predictions"),
        *("Run", "checked_images", "read_run", "write_report"),  # names of report/__init__.py
        *("chain_panels", "prediction_panels", "drawing", "figures", "html", "compare"),  # of the folder
    },
    "hmc_fast/models": {"datasets", "errors", "importing", "models"},
    "hmc_fast/datasets": {"datasets", "errors", "importing"},
    "hmc_fast/runner.py": {
        *("bma", "engine", "errors", "jsonfile", "posterior", "result"),
        *("samplers", "store", "streams", "target", "tuning", "unit"),
    },
    "hmc_fast/tuning.py": {"errors", "gradient", "jsonfile", "posterior", "target"},
    "hmc_fast/unit.py": {"compilation", "errors", "target"},
    "hmc_fast/result.py": {
        "bma",
        "diagnosis",
        "diagnostics",
        "engine",
        "errors",
        "posterior",
        "predictions",
        "samplers",
        "target",
    },
    "hmc_fast/engine": {"engine", "bma", "errors", "posterior", "samplers", "store", "target"},
    "hmc_fast/adaptation": set(),
    "hmc_fast/samplers": {
        *(
            "adapting",
            "adaptation",
            "base",
            "errors",
            "integrators",
            "kernels",
            "metropolis",
            "metropolised",
            "minibatch",
        ),
        *("isokinetic", "schedules", "stochastic", "streams", "target", "unit"),
    },
    "hmc_fast/isokinetic.py": {"errors", "kernels", "target"},
    "hmc_fast/integrators.py": {"kernels", "target", "unit"},
    "hmc_fast/posterior.py": {
        *("errors", "flat", "gradient", "kernels", "likelihoods", "precision", "priors", "target"),
    },
    "hmc_fast/target.py": {"compilation", "errors", "kernels", "priors", "streams"},
    "hmc_fast/gradient.py": {"compilation"},
    "hmc_fast/compilation.py": set(),
    "hmc_fast/priors.py": {"errors", "flat", "kernels"},
    "hmc_fast/store.py": {"errors", "kernels"},
    "hmc_fast/minibatch.py": {"errors", "kernels", "streams"},
    "hmc_fast/bma.py": {"kernels", "likelihoods", "predictions"},
    "hmc_fast/streams.py": {"errors", "kernels"},
    "hmc_fast/flat.py": {"errors"},
    "hmc_fast/likelihoods.py": {"errors"},
    "hmc_fast/schedules.py": {"errors"},
    "hmc_fast/precision.py": {"errors"},
    "hmc_fast/metropolis.py": {"errors"},
    "hmc_fast/diagnosis.py": {"diagnostics"},
    "hmc_fast/diagnostics.py": set(),
    "hmc_fast/predictions.py": set(),
}


def project_imports(path):
    """Names of the project's modules that a file imports, relative to the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found |= set(names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hmc_fast"):
            found.add(".".join(node.module.split(".")[1:2]) or "hmc_fast")
    return found


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_downward(part):
    path = ROOT / part
    for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
        siblings = {p.stem for p in path.glob("*.py")} if part != "hmc_fast/samplers" else set()
        if file.name == "__init__.py":
            siblings = {p.stem for p in path.glob("*.py")}
        extra = project_imports(file) - ALLOWED[part] - siblings
        assert not extra, f"{file.name} imports {extra}"


def test_every_module_has_its_place():
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "hmc_fast").iterdir()}
    leaves = {"__init__.py", "cli.py", "device.py", "errors.py", "importing.py", "jsonfile.py", "py.typed"}
    assert {m.removeprefix("hmc_fast/") for m in modules - set(ALLOWED)} - {"__pycache__"} <= leaves


def test_samplers_never_import_each_other():
    for file in (ROOT / "hmc_fast/samplers").glob("*.py"):
        if file.name != "__init__.py":
            shared = {"adapting", "base", "metropolised", "stochastic", "__init__", file.stem}
            others = {p.stem for p in file.parent.glob("*.py")} - shared
            assert not project_imports(file) & others


def test_kernels_never_import_the_package_and_only_ops_imports_triton_files():
    for file in (ROOT / "kernels").glob("*.py"):
        source = file.read_text()
        assert "import hmc_fast" not in source
        assert "from hmc_fast" not in source
        if file.stem in ("ops", "reference", "prior", "__init__"):
            tree = ast.parse(source)
            top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not any("triton" in ast.dump(n) for n in top), file.name


def test_importing_is_light_and_touches_nothing():
    """Neither heavy optional packages nor the command's module, nor any global state of torch."""
    code = """
import random, sys, threading
import numpy as np, torch
before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads(),
          torch.get_default_dtype(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())
import hmc_fast
after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads(),
         torch.get_default_dtype(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())
assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
heavy = {"triton", "jax", "matplotlib", "pandas", "sklearn", "tyro", "arviz", "pooch", "hmc_fast.sample"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout
