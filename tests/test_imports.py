"""Imports go downward only, and importing the package is light and leaves no trace."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


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


def test_samplers_never_import_each_other():
    for file in (ROOT / "hmc_fast/samplers").glob("*.py"):
        if file.name != "__init__.py":
            shared = {"adapting", "protocol", "metropolised", "stochastic", "__init__", file.stem}
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
heavy = {"triton", "jax", "matplotlib", "pandas", "sklearn", "arviz", "pooch", "hmc_fast.sample"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout
