"""`benchmarks/gpu_check.sh` dry: every stage on a machine without a GPU, without git and without optional packages.

Catches a module that cannot be imported there, a file that is not where the script looks, an option that does not
exist, and a selection of tests that selects none.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
TOOLS = ("bash", "sed", "dirname", "nproc", "timeout", "tee", "mkdir", "rm")
# Read by every Python that the script starts. Where tests are only collected, they are those of a GPU.
SITE = """
import sys

class Blocked:
    names = {"tyro", "arviz", "plotly", "blackjax", "numpyro", "posteriors", "jax"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
if "--collect-only" in sys.orig_argv:
    import torch

    torch.cuda.is_available = lambda: True
"""
PARTS = {
    "correctness": ["gpu", "captured", "kernels"],
    "speed": ["resnet", "kernels", "mlp", "lenet", "chains", "store", "store-rows", "scaling", "plots"],
    "peers": ["resnet-peers", "mlp-peers", "lenet-peers", "small-peers", "ess", "start"],
    "mission": ["mission", "summary"],
}

if not SCRIPT.exists():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)


def check(*arguments, command=("bash",), **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    clean |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(SCRIPT), *map(str, arguments)],
        env=clean | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def bare_machine(folder):
    """Environment of a machine with neither git nor optional packages, and with 40 images."""
    for name in ("tools", "site", "data"):
        (folder / name).mkdir()
    for tool in TOOLS:
        (folder / "tools" / tool).symlink_to(shutil.which(tool))
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    rng = np.random.default_rng(0)
    for part, count in (("train", 32), ("test", 8)):
        images = pd.DataFrame(rng.integers(0, 256, (count, 785)))
        images[0] %= 10
        images.columns = ["label", *(f"pixel{i}" for i in range(1, 785))]
        images.to_csv(folder / "data" / f"fashion-mnist_{part}.csv", index=False)
    return {"GPU_CHECK_DRY": 1, "PATH": folder / "tools", "PYTHONPATH": folder / "site", "DATA": folder / "data"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", PARTS)
def test_every_part_of_a_stage_can_run(tmp_path, stage):
    out = tmp_path / "out"
    done = check(stage, out, **bare_machine(tmp_path))
    table = done.stdout.split("result                      time\n")[-1].splitlines()
    verdicts = {line.split()[0]: line.split()[1] for line in table}
    verdicts.pop("doctor", None)
    assert verdicts == dict.fromkeys(PARTS[stage], "ok"), done.stdout[-4000:]
    assert done.returncode == 0
    assert all((out / f"{part}.log").exists() for part in PARTS[stage])
    if stage == "speed":
        rows = pd.read_csv(out / "results.csv")
        assert set(rows["provider"]) == {"streamed", "stacked"}
        assert set(rows["samples"]) == {3, 1}
    if stage == "mission":
        assert "\naccuracy: 0" in (out / "summary.log").read_text()


@pytest.mark.parametrize("arguments", [(), ("everything",)])
def test_without_a_stage_it_lists_them(arguments):
    done = check(*arguments)
    assert done.returncode == 2
    assert all(f"\n    {stage} " in done.stdout for stage in PARTS)


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path):
    done = check("speed", tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0
    assert "no CUDA GPU here" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_suite_that_is_stopped_leaves_what_it_measured(tmp_path):
    written = tmp_path / "suite.json"
    command = [sys.executable, "-u", "-m", "pytest", "benchmarks/bench_scaling.py", "--rounds", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    with subprocess.Popen(
        [*command, "--benchmark-json", str(written)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as suite:
        measured = False
        for line in suite.stdout:
            measured = measured or "against N, ours, 2,000" in line
            if measured and "ours" in line:  # again, should Python have lost the first within a destructor
                time.sleep(0.3)  # within the next test
                suite.send_signal(signal.SIGINT)
    rows = [row for entry in json.loads(written.read_text())["benchmarks"] for row in entry["extra_info"]["rows"]]
    assert [row["size"] for row in rows[:2]] == [500, 2000]
    assert len(rows) < 15
    assert suite.returncode == 2


# In place of Python: all goes well, but a run takes longer than it may. Its child lives on if only the run itself,
# not all of its process group, is interrupted: `timeout` signals a group a second time.
SLOW = """#!/usr/bin/env bash
[ "$2" = hmc_fast.sample ] || exit 0
trap 'echo interrupted' INT
sleep 7 && echo "child finished"
exit 130
"""


@pytest.mark.slow
def test_a_part_that_exceeds_its_limit_is_interrupted_once(tmp_path):
    (tmp_path / "python").write_text(SLOW)
    (tmp_path / "python").chmod(0o755)
    # a script that was started in the background ignores SIGINT; `timeout` lets its commands receive it
    in_background = ("bash", "-c", 'trap \'\' INT; exec bash "$0" "$@"')
    environment = {"PYTHON": tmp_path / "python", "GPU_CHECK_SECONDS": 5}
    done = check("mission", tmp_path / "out", command=in_background, **environment)
    assert (tmp_path / "out" / "mission.log").read_text().splitlines() == ["interrupted", "child finished"]
    assert "mission                  stopped after 5 s" in done.stdout
    assert "summary                  not run: out of time" in done.stdout
    assert done.returncode == 1
