"""Imports go downward only, and importing the package is light and leaves no trace."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch._dynamo", "torch._inductor", "triton", "sympy", "scipy", "pandas", "matplotlib", "sklearn")


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
modules = set(sys.modules)
before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads(),
          torch.get_default_dtype(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())
import hmc_fast
after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads(),
         torch.get_default_dtype(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())
assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
print(sorted(set(sys.argv) & set(sys.modules) - modules))
"""
    more = ("jax", "tyro", "arviz", "pooch", "hmc_fast.sample")
    done = subprocess.run([sys.executable, "-c", code, *HEAVY, *more], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


def test_a_run_that_compiles_nothing_imports_no_compiler():
    """Importing Dynamo and Inductor takes longer than many a small run."""
    code = """
import sys, torch
modules = set(sys.modules)
import hmc_fast
from hmc_fast.models import lenet5, mlp
posterior = hmc_fast.Posterior(mlp(6, (8,), 3), (torch.randn(40, 6), torch.randint(0, 3, (40,))))
images = hmc_fast.Posterior(lenet5(), (torch.randn(3, 1, 28, 28), torch.randint(0, 3, (3,))))
density = hmc_fast.Density(lambda t: -t.square().sum(), 2)
hmc = hmc_fast.HMC(0.01, num_leapfrog=2)
sghmc = hmc_fast.SGHMC(1e-4, friction=10.0, batch_size=10, steps_per_iteration=2)
options = dict(chains=2, burn_in=1, draws=2, progress=False)
for compile in (False, "auto"):
    hmc_fast.run(posterior, hmc, test=posterior.x, compile=compile, **options)
    hmc_fast.run(posterior, sghmc, compile=compile, **options)
    hmc_fast.run(images, hmc, compile=compile, **options)
    hmc_fast.run(density, hmc, compile=compile, **options)
print(sorted(set(sys.argv) & set(sys.modules) - modules))
"""
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout
