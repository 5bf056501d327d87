"""Kills runs of the command line at random moments, resumes them, and compares what they leave with unbroken runs.

    python tests/kills.py --number 1000 --seed 0

Each run is a process of its own, forked after the imports, which write nothing. It is stopped by SIGKILL, SIGTERM,
SIGHUP, Ctrl-C twice, or SIGSTOP and then SIGKILL, from its first moment to its report; what resumes it may be
killed again. Prints counts as it goes, and the exit status is 1 if a run cannot be resumed or differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads do not survive a fork

import numpy as np
import pandas as pd

from hmc_fast import sample

COMMON = "--train-size 60 --width 8 --chains 2 --no-progress --compile off --checkpoint-seconds 0.02"
FULL_BATCH = "--burn-in 4 --draws 12 --step-size 0.02"
MINIBATCH = f"{FULL_BATCH} --batch-size 20 --steps-per-iteration 3"
COMMANDS = {
    "hmc": f"{FULL_BATCH} --trajectory-length 0.1",
    "adapting hmc": "--adapt --burn-in 10 --draws 8 --num-leapfrog 3",
    "ghmc": f"{FULL_BATCH} --sampler ghmc",
    "split_hmc": f"{FULL_BATCH} --sampler split_hmc --trajectory-length 0.06",
    "amagold": "--sampler amagold --burn-in 4 --draws 12 --step-size 0.002 --batch-size 20",
    "adjusted_mclmc": f"{FULL_BATCH} --sampler adjusted_mclmc --num-leapfrog 3",
    "mclmc": f"{FULL_BATCH} --sampler mclmc --steps-per-iteration 3",
    "sghmc": f"{MINIBATCH} --sampler sghmc --step-size 0.002",
    "sgld": f"{MINIBATCH} --sampler sgld --step-size 0.00001",
    "psgld": f"{MINIBATCH} --sampler psgld --step-size 0.0001",
    "sgnht": f"{MINIBATCH} --sampler sgnht --step-size 0.002",
    "ubu": f"{MINIBATCH} --sampler ubu --step-size 0.002",
    "smsubu": f"{MINIBATCH} --sampler smsubu --step-size 0.002",
    "baoab": f"{MINIBATCH} --sampler baoab --step-size 0.002",
}
WAYS = ("KILL", "KILL", "KILL", "TERM", "HUP", "INT twice", "STOP, KILL")
STATUS = {"TERM": {143}, "HUP": {129}, "INT twice": {130}, "KILL": {-9}, "STOP, KILL": {-9}}
TIMES = ("seconds", "gradients_per_s", "peak_memory_bytes")


def started(arguments, folder, *, report, resume=False):
    """The process id of `python -m hmc_fast.sample`."""
    process = os.fork()
    if process:
        return process
    try:
        log = os.open(f"{folder}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if not report:
            sample.write_report = sample.first_look_figure = lambda *_, **__: None
        status = sample.main([*arguments.split(), "--out", str(folder), *(["--resume"] if resume else [])])
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    os._exit(status)


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def stop(process, way):
    """Returns the exit status."""
    for word in way.replace(" twice", "").split(", "):
        os.kill(process, getattr(signal, f"SIG{word}"))
    if "twice" in way:
        time.sleep(0.01)
        os.kill(process, signal.SIGINT)
    return ended(process)


def left_by(folder):
    """What must be the same, as something that compares."""
    metrics = json.loads((folder / "metrics.json").read_text())
    trace = pd.read_csv(folder / "trace.csv").drop(columns="seconds").to_csv()
    with np.load(folder / "predictions.npz") as archive:
        predictions = {name: archive[name].tobytes() for name in archive}
    figures = {name: value for name, value in metrics.items() if name not in TIMES}
    return (folder / "draws.npy").read_bytes(), trace, predictions, figures


def unbroken(arguments, folder, **options):
    """What a run leaves, and the seconds that it takes."""
    begin = time.monotonic()
    status = ended(started(arguments, folder, **options))
    assert status == 0, Path(f"{folder}.log").read_text()
    return left_by(folder), time.monotonic() - begin


def kill_runs(number, seed, folder, with_report=0.1):
    """Counts by what happened to the runs."""
    chance, counts, references = random.Random(seed), Counter(), {}
    while counts["kills"] < number:
        name, report = chance.choice(list(COMMANDS)), chance.random() < with_report
        arguments = f"{COMMON} {COMMANDS[name]}"
        if (name, report) not in references:
            references[name, report] = unbroken(arguments, folder / f"{name} {report}", report=report)
        expected, seconds = references[name, report]
        place = folder / "run"
        for file in (place, Path(f"{place}.log")):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        status, way = None, ""
        while status != 0:
            resume = (place / "checkpoint").is_dir()
            process = started(arguments, place, report=report, resume=resume)
            counts["resumed"] += resume
            if chance.random() < 0.25 and way:  # let it finish, sooner or later
                status, way = ended(process), ""
            else:
                time.sleep(chance.uniform(0, 1.1 * seconds))
                way = chance.choice(WAYS)
                status = stop(process, way)
                counts["kills"] += status != 0
                counts[way] += status != 0
                if status == 0:  # the machine has become faster
                    references[name, report] = expected, seconds = expected, 0.8 * seconds
            if status != 0 and status not in STATUS.get(way, {}) | {-15, -1}:
                counts["lost"] += 1
                print(f"{name}: status {status} after {way!r}", Path(f"{place}.log").read_text(), sep="\n")
                break
        if status == 0:
            counts["same" if left_by(place) == expected else "different"] += 1
        print(dict(counts), flush=True)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=60, help="of kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = kill_runs(arguments.number, arguments.seed, Path(folder))
    return int(counts["lost"] + counts["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
