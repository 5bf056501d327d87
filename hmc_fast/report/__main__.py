"""`python -m hmc_fast.report DIR...`: the report of one run, or a page that compares several."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..command_line import main_guard
from ..datasets import Dataset, load
from ..errors import UserError
from ..results.run_folder_reader import RunFolder
from . import read_run, write_report
from .compare import write_comparison

_PROG = "hmc_fast.report"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{_PROG}: error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 on success, 2 for a user mistake, 130 after Ctrl-C."""
    parser = _Parser(
        prog=f"python -m {_PROG}",
        description="Write one self-contained HTML file: the report of a finished run (DIR/report.html), or a "
        "comparison of several runs (comparison.html). Its path is the last line printed.",
    )
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="directory of a finished run")
    parser.add_argument("--out", type=Path, help="several runs: the file to write. Default: comparison.html")
    parser.add_argument(
        "--data-dir", type=Path, help="directory of the data files, for test images. Default: the run's"
    )
    arguments = parser.parse_args(argv)
    return main_guard(lambda: _report(arguments.directories, arguments.out, arguments.data_dir), _PROG)


def _report(directories: list[Path], out: Path | None, data_dir: Path | None) -> None:
    runs = [_read(directory) for directory in directories]
    if len(runs) > 1:
        print(write_comparison(runs, out or Path("comparison.html")))
        return
    if out is not None:
        raise UserError(
            f"--out {out} needs several runs: the report of a single run is always {directories[0]}/report.html"
        )
    dataset, missing = _dataset(runs[0], data_dir)
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


def _dataset(run: RunFolder, data_dir: Path | None) -> tuple[Dataset | None, str]:
    """A classification run's data, if available and with the same test labels; otherwise None and the reason."""
    if not run.is_classification:
        return None, ""
    name = str(run.config.get("data", ""))
    folder = data_dir or Path(str(run.config.get("data_dir", "data")))
    cure = "Test images are left out: "
    if name == "fashion-mnist" and not folder.is_dir():  # load would download it, which no report is worth
        return None, f"{cure}{folder} does not exist; set --data-dir to the directory of the data."
    try:
        dataset = load(name, folder, split=int(run.config.get("split") or 0))
    except UserError as error:
        return None, f"{cure}{error}."
    if not np.array_equal(dataset.y_test.numpy(), run.predictions["labels"]):
        return None, f"{cure}the test labels of {name} differ from those of the run."
    return dataset, ""


if __name__ == "__main__":
    sys.exit(main())
