"""Applies each edit of `mutants.py` to a copy of the project and runs the tests that must fail.

    python tests/run_mutants.py [WORD]      # only files or old texts that contain it

Status 0 when every mutant is killed; 1 where one survives, no longer applies, or its tests pass for no code at all.
"""

import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
WORKERS = 2
TIMEOUT = 180  # seconds; a mutant that never ends is killed too


def copy_of_project(folder: Path) -> Path:
    """What the tests need, with kernels/ where an installed package has it: all is imported from the copy."""
    for name in ("hmc_fast", "kernels", "tests", "benchmarks", "docs", "pyproject.toml", "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "hmc_fast" / "kernels").symlink_to(folder / "kernels")
    return folder


def run_tests(project: Path, tests: str) -> int:
    """Exit status of pytest: 0 all passed, 1 some failed, anything else says that they did not run."""
    arguments = [f"tests/{word}" if ".py" in word else word for word in shlex.split(tests)]
    fast = "not slow and not statistical and not gpu"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", fast, f"--basetemp={project}/tmp", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(
            command, cwd=project, env=environment, capture_output=True, timeout=TIMEOUT
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


def outcome(mutant: Mutant, project: Path) -> str:
    """ "" for a mutant that is killed, else what is wrong."""
    path = project / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"stale: its text occurs {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))
    _forget_bytecode(path)
    try:
        status = run_tests(project, mutant.tests)
    finally:
        path.write_text(text)
        _forget_bytecode(path)
    return {0: "SURVIVED", 1: ""}.get(status, f"tests did not run (pytest status {status})")


def _forget_bytecode(path: Path) -> None:
    """Python knows sources by size and second: two edits within one second would look the same."""
    for compiled in (path.resolve().parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [m for m in MUTANTS if word in m.file or word in m.old]
    begin, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        projects: queue.Queue[Path] = queue.Queue()
        for number in range(WORKERS):
            projects.put(copy_of_project(Path(scratch) / str(number)))

        def with_a_project(function, argument):
            project = projects.get()
            try:
                return function(argument, project)
            finally:
                projects.put(project)

        with ThreadPoolExecutor(WORKERS) as pool:
            tests = sorted({m.tests for m in chosen})
            whole = pool.map(lambda t: with_a_project(lambda t, p: run_tests(p, t), t), tests)
            for name, status in zip(tests, whole, strict=True):
                if status:
                    wrong.append(f"without any edit, pytest {name} ends with status {status}")
            for mutant, problem in zip(chosen, pool.map(lambda m: with_a_project(outcome, m), chosen), strict=True):
                if problem:
                    wrong.append(f"{mutant.file}: {mutant.old!r} -> {mutant.new!r}, {mutant.tests}: {problem}")
                    print(wrong[-1], flush=True)
    print(f"{len(chosen)} mutants, {len(wrong)} problems, {time.monotonic() - begin:.0f} s")
    print(*wrong, sep="\n")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
