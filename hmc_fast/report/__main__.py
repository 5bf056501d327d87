"""`python -m hmc_fast.report DIR...`: the report of one run, or a page that compares several."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..arguments import shown
from ..command_line import fail, main_guard
from ..datasets import Dataset, load
from ..errors import UserError
from ..flag_values import fits, reader
from ..results.run_folder_reader import RunFolder
from . import read_run, write_report
from .compare import write_comparison

_PROG = "hmc_fast.report"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(_PROG, f"{message.removeprefix('argument ')} (see --help)")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 on success, 2 for a user mistake, 130 after Ctrl-C."""
    parser = _Parser(
        prog=f"python -m {_PROG}",
        description="Write one self-contained HTML file: the report of a finished run (DIR/report.html), or a "
        "comparison of several runs (comparison.html). Its path is the last line printed.",
    )
    path = reader(Path)
    parser.add_argument("directories", nargs="+", type=path, metavar="DIR", help="directory of a finished run")
    parser.add_argument("--out", type=path, help="several runs: the file to write. Default: comparison.html")
    parser.add_argument(
        "--data-dir", type=path, help="directory of the data files, for test images. Default: the run's"
    )
    parser.add_argument(
        "--data", type=reader(str), help="module:callable that returns the run's data, for test images; it is run"
    )
    arguments = parser.parse_args(argv)
    return main_guard(lambda: _report(**vars(arguments)), _PROG)


def _report(directories: list[Path], out: Path | None, data_dir: Path | None, data: str | None) -> None:
    runs = [_read(directory) for directory in directories]
    if len(runs) > 1:
        print(write_comparison(runs, out or Path("comparison.html")))
        return
    if out is not None:
        raise UserError(
            f"--out {out} needs several runs: the report of a single run is always {directories[0]}/report.html"
        )
    dataset, missing = _dataset(runs[0], data_dir, data)
    images = None if dataset is None else dataset.grey_images()
    names = () if dataset is None else dataset.class_names
    print(write_report(directories[0], images=images, class_names=names, images_missing=missing))


def _read(directory: Path) -> RunFolder:
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: name the directory of a finished run")
    if (directory / "checkpoint").is_dir() and not (directory / "metrics.json").exists():
        raise UserError(
            f"the run in {directory} is not finished: continue it with python -m hmc_fast.sample --resume --out "
            f"{directory}"
        )
    return read_run(directory)


def _dataset(run: RunFolder, data_dir: Path | None, data: str | None) -> tuple[Dataset | None, str]:
    """A classification run's data, if available and with the same test labels; otherwise None and the reason.

    data: code that the user names, because none that a run's folder names is run.
    """
    if not run.is_classification:
        return None, ""
    stored = {name: run.config.get(name) for name in ("data", "data_dir", "split")}
    cure = "Test images are left out: "
    if not all(map(fits, stored.values(), (str, str | None, int | None))):
        return None, f"{cure}config.json names no data set."
    name, folder = data or str(stored["data"]), data_dir or Path(stored["data_dir"] or "data")
    if data is None and ":" in name:
        return (
            None,
            f"{cure}the run's data come from code, {shown(name)}; if you trust it, add --data {shown(name)}.",
        )
    try:
        dataset = load(name, folder, split=stored["split"] or 0, download=False)
    except UserError as error:
        return None, f"{cure}{error}."
    if not np.array_equal(dataset.y_test.numpy(), run.predictions["labels"]):
        return None, f"{cure}the test labels of {name} differ from those of the run."
    return dataset, ""


if __name__ == "__main__":
    sys.exit(main())
