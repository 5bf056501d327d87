"""Have the chains converged in weight space and in function space? (Izmailov et al. 2021)"""

import numpy as np
import pandas as pd

from ...errors import UserError
from ...report.drawing import BLUE, INK, RED
from ...results.diagnostics import plain_rhat
from ..page import Page
from ..run_cache import Lab

QUESTION = "Have the chains converged in weight space and in function space?"


def answer(lab: Lab, page: Page) -> None:
    """Needs at least 2 chains and 10 draws."""
    s = lab.settings
    if s.chains < 2:
        raise UserError(f"--chains {s.chains} is too few: R-hat here compares at least 2 chains")
    if s.long_draws < 10:
        raise UserError(f"--long-draws {s.long_draws} is too few: R-hat of halved chains needs at least 10")
    (sample,) = lab.obtain([lab.hmc("long HMC", draws=s.long_draws, seed=s.seed)])
    if not np.ptp(sample.draws, axis=0).any():
        raise UserError(f"no chain moved at --step-size {s.step_size:g}, so R-hat is undefined: use a smaller one")
    probs = sample.probs.reshape(*sample.probs.shape[:2], -1)  # (S, C, T K)
    weight, function = (plain_rhat(np.moveaxis(values, 0, 1)) for values in (sample.draws, probs))
    rows = []
    for space, values in (("weights", weight), ("function values", function)):
        values = values[np.isfinite(values)]
        quantiles = np.quantile(values, [0.5, 0.95, 0.99, 1])
        rows.append(
            {
                "space": space,
                "quantities": len(values),
                "below 1.05": (values < 1.05).mean(),
                "below 1.1": (values < 1.1).mean(),
                "median": quantiles[0],
                "95 %": quantiles[1],
                "99 %": quantiles[2],
                "max": quantiles[3],
            }
        )
    table = pd.DataFrame(rows)
    page.table("rhat", f"Split R-hat of {s.chains} chains of {s.long_draws} draws", table)
    caption = (
        "Fraction of all quantities per bin, logarithmic axes; first bin: 1.001 or less; dashed: 1.1. Function "
        "values: test softmax outputs."
    )
    with page.figure("rhat", "R-hat in weight and in function space", caption, (6.4, 3.6)) as figure:
        ax = figure.add_subplot()
        top = max(1.2, float(table["max"].max()))
        bins = 1 + np.geomspace(1e-3, top - 1, 46)
        for values, label, colour, hatch in (
            (weight, "weights", RED, "///"),
            (function, "function values", BLUE, ""),
        ):
            values = np.clip(values[np.isfinite(values)], bins[0], bins[-1])
            share = np.full(len(values), 1 / len(values))
            look = {"histtype": "stepfilled", "alpha": 0.5, "hatch": hatch, "edgecolor": colour, "lw": 1.3}
            ax.hist(values - 1, bins=list(bins - 1), weights=share, color=colour, label=label, **look)
        ax.axvline(0.1, color=INK, ls=(0, (4, 2)), lw=1)
        ax.set(xscale="log", yscale="log", xlabel="R-hat − 1", ylabel="fraction of quantities")
        ax.legend(loc="upper center")
    worse = table[["median", "95 %", "99 %", "max"]].diff().iloc[1]
    page.claim(
        "R-hat is lower in function space than in weight space.",
        bool((worse <= 0).all()),
        f"Medians {table['median'][0]:.4f} (weights) and {table['median'][1]:.4f}, 95 % quantiles "
        f"{table['95 %'][0]:.4f} and {table['95 %'][1]:.4f}, 99 % {table['99 %'][0]:.4f} "
        f"and {table['99 %'][1]:.4f}.",
    )
    page.claim(
        "R-hat is far lower in function space than in weight space.",
        bool(table["max"][1] - 1 < 0.5 * (table["max"][0] - 1)),
        f"Largest: {table['max'][0]:.3f} among {table['quantities'][0]:,} weights, {table['max'][1]:.3f} among "
        f"{table['quantities'][1]:,} function values. Far lower: less than half as far above 1.",
    )
    page.claim(
        "Most R-hat values in function space are below 1.1.",
        bool(table["below 1.1"][1] > 0.9),
        f"{100 * table['below 1.1'][1]:.1f} % of the function values, {100 * table['below 1.1'][0]:.1f} % of the "
        "weights.",
    )
