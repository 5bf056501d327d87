"""Imports follow the rule of README's code map; importing the package is light and leaves no trace."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
