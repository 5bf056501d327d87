"""Seconds to a BMA accuracy on Fashion-MNIST, from a cold start: training nothing, sampling only.

    python benchmarks/end_to_end.py --out DIR --data-dir data [--preset fashion-lenet] [--accuracy 0.92]

Runs the preset as the command line would. On two CPU cores `fashion-lenet` takes minutes; without the data this
says so and ends.
"""

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import torch
from common import context, row
from tidy import append

import hmc_fast
from hmc_fast.compute.device import resolve_device
from hmc_fast.presets.build import make_dataset, make_posterior
from hmc_fast.presets.resolve import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--preset", default="fashion-resnet20" if cuda else "fashion-lenet")
    parser.add_argument("--accuracy", type=float, default=0.92)
    arguments = parser.parse_args()
    if not any(arguments.data_dir.glob("*-ubyte.gz")) and not any(arguments.data_dir.glob("fashion-mnist_*.csv")):
        print(f"no Fashion-MNIST in {arguments.data_dir}: nothing measured")
        return
    specification = resolve(arguments.preset, {"data_dir": arguments.data_dir})
    settings = specification.settings
    device = resolve_device(settings.device)
    dataset = make_dataset(settings)
    posterior, init = make_posterior(settings, dataset, device)
    begin = time.perf_counter()
    run = hmc_fast.run(
        posterior,
        specification.sampler,
        **{name: getattr(settings, name) for name in ("chains", "burn_in", "draws", "thin", "seed")},
        init=init,
        test=(dataset.x_test, dataset.y_test),
    )
    seconds = time.perf_counter() - begin
    assert run.curve is not None
    finished = run.trace.groupby("iteration")["seconds"].first().cumsum().to_numpy()
    kept = finished[run.plan.kept_iterations(run.sampler)]
    accuracy, nll = run.curve[:, 0], run.curve[:, 1]
    reached = np.flatnonzero(accuracy >= arguments.accuracy)
    name = f"{arguments.preset}, {settings.chains} chains"
    new = functools.partial(row, "end to end", name, "ours")
    rows = [
        new(len(accuracy), "BMA accuracy", "", float(accuracy[-1])),
        new(len(accuracy), "BMA NLL", "", float(nll[-1])),
        new(len(accuracy), "whole run", "s", seconds),
    ]
    for draw, (score, at) in enumerate(zip(accuracy, kept, strict=True)):
        rows.append(new(draw + 1, "accuracy after", "s", float(at)) | {"q20": float(score), "q80": float(score)})
    if len(reached):
        at = float(kept[reached[0]])
        rows.append(new(int(reached[0]) + 1, f"seconds to {arguments.accuracy}", "s", at))
        print(f"{name}: BMA accuracy {arguments.accuracy} after {at:.0f} s")
    else:
        print(f"{name}: BMA accuracy {arguments.accuracy} not reached")
    append(arguments.out, rows, context(device))
    print(f"whole run: {accuracy[-1]:.4f}, NLL {nll[-1]:.4f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
