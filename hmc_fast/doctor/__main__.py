"""`python -m hmc_fast.doctor`: one table of checks; exit status 1 if one of them failed."""

import argparse
import dataclasses
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from ..atomic_files import write_json
from ..command_line import main_guard
from ..compute.device import resolve_device
from ..errors import UserError
from ..kernels import reference, self_check
from . import chains, formulas, speed
from .findings import Finding, Result, find
from .machine import describe

_PROG = "hmc_fast.doctor"


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 if nothing is wrong, 1 if a check failed, 2 for a user mistake."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROG}",
        description="What this machine can do, and whether it does it right: every operation against its "
        "definition, every way to compute against the plainest one. Under a minute.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found there, too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX (default: auto)")
    arguments = parser.parse_args(argv)
    failed: list[str] = []
    status = main_guard(lambda: failed.extend(_examine(arguments.device, arguments.json)), _PROG)
    return status or int(bool(failed))


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], Result]]]:
    """By name, in the order of what depends on what."""
    cpu, cuda = torch.device("cpu"), device.type == "cuda"
    for operation in self_check.OPERATIONS:
        yield operation, partial(_operation, reference, formulas, operation, cpu, "its formula")
    for path in ("traced", "loop", "compiled"):
        yield f"{path} chains", partial(chains.compiled, path)
    yield "resumed chains", partial(chains.resumed, cpu, False)
    if not cuda:
        return
    kernels = self_check.triton_operations()
    for operation in self_check.OPERATIONS:
        yield f"{operation} kernel", partial(_operation, kernels, reference, operation, device, "its twin")
    yield "chains on the GPU", partial(chains.follows_cpu, device)
    yield "captured chains", partial(chains.captured, device)
    yield "resumed captured chains", partial(chains.resumed, device, True)
    yield "bandwidth of kick_drift", partial(speed.bandwidth, device)
    yield "busy share of a trajectory", partial(speed.busy_share, device)


def _operation(first: object, second: object, operation: str, device: torch.device, beside: str) -> Result:
    count, found = self_check.compare(first, second, operation, device)
    if found:
        return Result("FAILED", f"{len(found)} of {count} cases differ from {beside}: {found[0]}")
    return Result("ok", f"{count} cases, as {beside}")


def _examine(name: str, file: Path | None) -> list[str]:
    """Prints as it goes; returns the names of what failed."""
    device, begin = resolve_device(name), time.perf_counter()
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"--json {file} cannot be written: {file.absolute().parent} is not a directory")
    machine = describe(device)
    for key, text in machine.items():
        print(textwrap.fill(f"{key}: {text}", 120, subsequent_indent="    "))
    print(f"\n{'check':28}{'verdict':10}{'found':60}{'s':>6}")
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of compilers; what they do wrong shows in the results
        for title, check in checks(device):
            finding = find(title, check)
            findings.append(finding)
            print(f"{finding.name:28}{finding.verdict:10}{finding.detail:60}{finding.seconds:6.1f}", flush=True)
    failed = [finding.name for finding in findings if finding.verdict == "FAILED"]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "nothing is wrong"
    print(f"\n{verdict} ({time.perf_counter() - begin:.0f} s)")
    if file is not None:
        found = {"machine": machine, "checks": [dataclasses.asdict(f) for f in findings], "failed": failed}
        write_json(file, found)
    return failed


if __name__ == "__main__":
    sys.exit(main())
