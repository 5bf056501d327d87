"""Ways to predict with LeNet-5 on Fashion-MNIST at equal compute: the gradients of as many examples for each.

    python -m benchmarks.fashion --data-dir DIR                                  # all methods, three seeds
    python -m benchmarks.fashion --data-dir DIR --validate --methods smsubu      # to tune: test images are not read

The posterior of the samplers: prior N(0, 0.02) on all parameters, T = 1 unless `POSTERIOR` says otherwise.
Accuracy, NLL, ECE (20 bins of equal mass) and Brier score of the average prediction; mean +- standard error over
seeds. With --validate a tenth of the training images, of a fixed random order, takes the place of the test images.
Rows that the table has already are not measured again, so the command can be stopped and repeated.
"""

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hmc_fast
from hmc_fast.command_line import main_guard
from hmc_fast.datasets import Dataset, load
from hmc_fast.dynamics.schedules import CosineCyclical
from hmc_fast.experiments.approximations import approximate
from hmc_fast.models.lenet import lenet5
from hmc_fast.results.predicted import predicted

from .common import context, write_csv

PRIOR_VARIANCE = 0.02
BATCH_SIZE = 128
SCORES = ("accuracy", "nll", "ece", "brier")
COLUMNS = ["method", "images", "seed", *SCORES, "seconds", "examples", "posterior"]
COLUMNS += ["device", "versions", "commit", "time"]


class Task:
    """Data, network and posterior of one seed, and how many passes over the data a method may take."""

    def __init__(self, dataset: Dataset, seed: int, examples: float) -> None:
        self.dataset, self.seed = dataset, seed
        self.passes = examples / len(dataset.x_train)
        self.posterior = hmc_fast.Posterior(
            self.network(seed), (dataset.x_train, dataset.y_train), prior=hmc_fast.Normal(PRIOR_VARIANCE)
        )

    def network(self, seed: int) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return lenet5(num_classes=self.dataset.num_classes, activation="silu")

    def epochs(self, members: int) -> int:
        """Passes of each of several members."""
        return max(1, math.floor(self.passes / members))

    def trained(self, members: int, epochs: int, optimizer: str = "adamw", **settings: Any) -> Tensor:
        """`(C, D)`."""
        training = hmc_fast.Training(
            epochs=epochs, optimizer=optimizer, batch_size=BATCH_SIZE, held_out=0, **settings
        )
        return training.members(self.posterior, members, self.seed, progress=False)

    def sampled(
        self, sampler: Any, members: int, epochs: int, init: "Tensor | str", burn_in: int = 0
    ) -> np.ndarray:
        """Draws `(S, C, D)` of that many epochs. burn_in: iterations of the sampler."""
        steps = epochs * math.ceil(self.posterior.num_data / BATCH_SIZE)
        iterations = steps // sampler.gradients_per_iteration(self.posterior)
        burn_in = min(burn_in, iterations - 1)
        kept = sum(sampler.keeps(iteration) for iteration in range(burn_in, iterations))
        run = hmc_fast.run(
            self.posterior,
            sampler,
            chains=members,
            burn_in=burn_in,
            draws=kept,
            init=init,
            seed=self.seed,
            draw_dtype=torch.float32,
            progress=False,
        )
        return np.asarray(run.draws)


def sgd(task: Task) -> np.ndarray:
    """One network, SGD with momentum."""
    return task.trained(1, task.epochs(1), "sgd").numpy()[None]


def ensemble(task: Task) -> np.ndarray:
    """A deep ensemble of ten, each with a tenth of the passes."""
    return task.trained(10, task.epochs(10), "sgd").numpy()[None]


def swag(task: Task) -> np.ndarray:
    """SWAG on the log posterior."""
    found = approximate("swag", task.posterior, task.network, task.dataset, epochs=task.epochs(1), seed=task.seed)
    return found.draws


def csghmc(task: Task) -> np.ndarray:
    """The preset's cyclical SG-HMC: four chains, cycles of five epochs, of which two are kept."""
    schedule = CosineCyclical(5, keep=2, exploration=0.6)
    sampler = hmc_fast.SGHMC(9.13e-4, friction=109.5, batch_size=BATCH_SIZE, schedule=schedule)
    epochs = task.epochs(4) // 5 * 5
    return task.sampled(sampler, 4, epochs, "model", burn_in=5)


def smsubu(task: Task) -> np.ndarray:
    """Members trained for two thirds of the passes, each then a chain of SMS-UBU localised where it began."""
    members = 5
    epochs = task.epochs(members)
    sampling = 2 * max(1, epochs // 6)
    begin = task.trained(members, epochs - sampling, "sgd")
    sampler = hmc_fast.SMSUBU(1.25e-4, friction=7.0, batch_size=BATCH_SIZE, localisation=50.0)
    return task.sampled(sampler, members, sampling, begin)


def mile(task: Task) -> np.ndarray:
    """Members trained for two thirds of the passes, each then a chain of MCLMC on minibatches."""
    members = 5
    epochs = task.epochs(members)
    sampling = max(1, epochs // 3)
    begin = task.trained(members, epochs - sampling, "sgd")
    steps = math.ceil(task.posterior.num_data / BATCH_SIZE)
    sampler = hmc_fast.MCLMC(0.02, decoherence_length=1.0, batch_size=BATCH_SIZE, steps_per_iteration=steps)
    return task.sampled(sampler, members, sampling, begin)


METHODS: dict[str, Callable[[Task], np.ndarray]] = {
    method.__name__: method for method in (sgd, ensemble, swag, csghmc, smsubu, mile)
}
POSTERIOR = {
    "sgd": "none",
    "ensemble": "none",
    "swag": "T = 1, approximated",
    "csghmc": "T = 1; no noise in the first .6 of a cycle",
    "smsubu": "T = 1, localised with precision 50",
    "mile": "T = 1",
}


def validation(dataset: Dataset) -> Dataset:
    """The last tenth of the training images, of a fixed random order, in place of the test images."""
    order = torch.randperm(len(dataset.x_train), generator=torch.Generator().manual_seed(0))
    rest, held_out = order.split([len(order) - len(order) // 10, len(order) // 10])
    x, y = dataset.x_train, dataset.y_train
    return replace(dataset, x_train=x[rest], y_train=y[rest], x_test=x[held_out], y_test=y[held_out])


def measure(method: str, dataset: Dataset, seed: int, examples: float, images: str) -> dict[str, Any]:
    """One row of the table. Seconds include training and sampling, not the predictions."""
    task = Task(dataset, seed, examples)
    begin = time.perf_counter()
    draws = METHODS[method](task)
    seconds = time.perf_counter() - begin
    prediction = predicted(task.posterior, draws, dataset.x_test, None, 1024)
    labels = dataset.y_test.numpy()
    scores = [getattr(prediction, score)(labels) for score in SCORES]
    row = [method, images, seed, *(f"{score:.6g}" for score in scores), f"{seconds:.1f}", f"{examples:g}"]
    return dict(zip(COLUMNS, [*row, POSTERIOR[method], *context(torch.device("cpu"))], strict=True))


def markdown(rows: Sequence[dict[str, Any]], command: str) -> str:
    lines = ["# LeNet-5 on Fashion-MNIST at equal compute", "", f"Written by `{command}`.", ""]
    lines += ["Mean +- standard error over seeds.", ""]
    columns = ["method", "images", "seeds", *SCORES, "seconds", "posterior"]
    lines += ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for method, images in dict.fromkeys((row["method"], row["images"]) for row in rows):
        own = [row for row in rows if (row["method"], row["images"]) == (method, images)]
        cells = [method, images, str(len(own))]
        for score in SCORES:
            values = np.array([float(row[score]) for row in own])
            error = values.std(ddof=1) / math.sqrt(len(own)) if len(own) > 1 else math.nan
            cells.append(f"{values.mean():.4f} +- {error:.4f}")
        cells.append(f"{np.mean([float(row['seconds']) for row in own]):.0f}")
        lines.append("| " + " | ".join([*cells, own[0]["posterior"]]) + " |")
    first = rows[0]
    lines += [
        "",
        f"{float(first['examples']):,.0f} example gradients each. {first['device']}; {first['versions']}.",
    ]
    return "\n".join([*lines, ""])


def benchmark(arguments: argparse.Namespace) -> None:
    for method in arguments.methods:
        if method not in METHODS:
            raise hmc_fast.UserError(f"method {method!r} is unknown: use {', '.join(METHODS)}")
    dataset = load("fashion-mnist", arguments.data_dir)
    if arguments.train_size:
        dataset = dataset.subset(arguments.train_size, arguments.train_size)
    images = "validation" if arguments.validate else "test"
    dataset = validation(dataset) if arguments.validate else dataset
    path = arguments.out / "fashion.csv"
    rows = _read(path)
    for seed in arguments.seeds:
        for method in arguments.methods:
            given = (method, images, str(seed), f"{arguments.examples:g}")
            if any(given == tuple(row[k] for k in ("method", "images", "seed", "examples")) for row in rows):
                continue
            row = measure(method, dataset, seed, arguments.examples, images)
            rows.append({name: str(value) for name, value in row.items()})
            write_csv(path, COLUMNS, rows)
            (arguments.out / "fashion.md").write_text(markdown(rows, "python -m benchmarks.fashion"))
    print(markdown(rows, "python -m benchmarks.fashion"))


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the data files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the table")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--examples", type=float, default=6e6, help="gradients of single examples, of each method")
    parser.add_argument("--validate", action="store_true", help="hold out training images; leave test images alone")
    parser.add_argument("--train-size", type=int, default=0, help="images of each kind, for a trial; 0: all")
    return main_guard(lambda: benchmark(parser.parse_args(argv)), "benchmarks.fashion")


if __name__ == "__main__":
    sys.exit(main())
