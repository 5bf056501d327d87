"""Imports follow the rule of README's code map; importing the package is light and leaves no trace."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch._dynamo", "torch._inductor", "triton", "sympy", "scipy", "pandas", "matplotlib", "sklearn")


def rule():
    """Room -> every room that it may import, by README's lines `lower < higher < ...` and `... anywhere`."""
    section = (ROOT / "README.md").read_text().split("\n## Code map\n")[1].split("\n## ")[0]
    (anywhere,) = re.findall(r"^ {4}(.*) anywhere$", section, re.M)
    rooms = [file.stem for file in (ROOT / "hmc_fast").iterdir()]
    below = {room: set(anywhere.split(", ")) for room in [*rooms, "kernels"]}
    for line in re.findall(r"^ {4}(\S.* < .*)$", section, re.M):
        for lower, higher in itertools.pairwise(line.split(" < ")):
            for room in higher.split(", "):
                below[room] |= set(lower.split(", "))
    for _ in below:  # what lies below what lies below
        below = {room: rooms.union(*(below[r] for r in rooms)) for room, rooms in below.items()}
    return below


def imported(file, package):
    """Names right below hmc_fast that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            full = [f"{module if node.level else node.module}.{alias.name}" for alias in node.names]
        else:
            full = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in full if name.startswith("hmc_fast."))


def test_imports_follow_the_rule():
    below, broken = rule(), set()
    for folder, name in ((ROOT / "hmc_fast", "hmc_fast"), (ROOT / "kernels", "hmc_fast/kernels")):
        for file in folder.rglob("*.py"):
            place = Path(name) / file.relative_to(folder)
            room = place.parts[1].removesuffix(".py")
            found = set(imported(file, place.parts[:-1])) & set(below) if room != "__init__" else set()
            broken |= {(room, other) for other in found - below[room] - {room, "__init__"}}
    assert not broken


def test_operations_and_twins_do_not_need_triton():
    for name in ("ops", "reference", "prior", "__init__"):
        top = ast.parse((ROOT / f"kernels/{name}.py").read_text()).body
        assert not any("triton" in ast.dump(n) for n in top if isinstance(n, ast.Import | ast.ImportFrom)), name


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
    more = ("jax", "arviz", "pooch", "hmc_fast.sample")
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
