"""Panels on the chains themselves: traces, acceptance and energies."""

from typing import Any

import numpy as np

from ..results.run_folder_reader import RunFolder
from .drawing import BLUE, CHAIN_STYLES, GREY, INK, PALE, RED, SHADE, note, plain

__all__ = ["acceptance", "energy", "energy_error", "ranks", "trace"]


def _shade_burn_in(ax: Any, run: RunFolder) -> None:
    first, last = run.trace["iteration"].min(), run.trace["iteration"].max()
    ax.set(xlim=(first, max(last, first + 1)), xlabel="iteration")
    if run.burn_in_end > first:
        ax.axvspan(first, run.burn_in_end, color=SHADE, zorder=0, lw=0)
        # Explained in the axis label, because a label inside the axes could overlap curves or other labels.
        ax.set_xlabel("iteration (shaded: burn-in)")


def _chain_lines(ax: Any, values: Any) -> None:
    """One line per chain of a frame (iterations, C); more than four chains share one thin style."""
    count = len(values.columns)
    for index, chain in enumerate(values.columns):
        if count <= len(CHAIN_STYLES):
            colour, dashes = CHAIN_STYLES[index]
            label = f"{chain}" if index else f"chain {chain}"
            ax.plot(values.index, values[chain], color=colour, ls=dashes, lw=1.1, label=label)
        else:
            ax.plot(values.index, values[chain], color=BLUE, lw=0.7, alpha=max(0.15, 2 / count))
    if count > len(CHAIN_STYLES):
        ax.set_title(f"{count} chains, one line each", fontsize=9, color=GREY, loc="right")
    elif count > 1:
        look = {"borderpad": 0, "columnspacing": 1.2, "labelcolor": GREY}
        ax.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=4, **look)


def trace(ax: Any, run: RunFolder) -> None:
    values = run.per_chain(run.trace["log_likelihood"] + run.trace["log_prior"])
    values = values.where(np.isfinite(values))
    _shade_burn_in(ax, run)
    _chain_lines(ax, values)
    kept = values[values.index >= run.burn_in_end].to_numpy()
    if np.isfinite(kept).any():
        low, high = np.nanmin(kept), np.nanmax(kept)
        room = max(high - low, 1e-9 * abs(high), 1e-12)
        lowest, highest = np.nanmin(values), np.nanmax(values)
        # The initial climb would flatten everything after it, so it may leave the axes.
        floor, roof = max(lowest, low - 1.5 * room), min(highest, high + 1.5 * room)
        ax.set_ylim(floor - 0.12 * room, roof + 0.12 * room)
        off = " and ".join(plain(round(value)) for value in (lowest, highest) if not floor <= value <= roof)
        if off:
            note(ax, f"burn-in reaches {off}", (1, 0), (-4, 5), ha="right")
    ax.yaxis.set_major_formatter(plain)
    ax.set_ylabel("log posterior + constant (nats)")


def acceptance(ax: Any, run: RunFolder) -> None:
    # A divergent trajectory may have no acceptance probability; it was rejected.
    values = run.per_chain(run.trace["accept_prob"].fillna(0.0))
    window = max(5, len(values) // 10)
    _shade_burn_in(ax, run)
    ax.axhspan(0.6, 0.9, color="#dbe9f4", lw=0, zorder=0.5)
    note(ax, "typical target .6 to .9", (1, 0.6), (-4, -4), ("axes fraction", "data"), ha="right", va="top")
    _chain_lines(ax, values.rolling(window, min_periods=1).mean())
    ax.set(ylim=(0, 1.02), ylabel=f"acceptance (running mean of {window})")


def energy_error(ax: Any, run: RunFolder) -> None:
    values = run.sampled("energy_error")
    values = values[~np.isnan(values)]
    reach = 1.15 * max(np.abs(np.quantile(values[np.isfinite(values)], [0.01, 0.99])).max(), 1e-6)
    inside = values[np.abs(values) <= reach]
    ax.hist(inside, bins=np.linspace(-reach, reach, 42).tolist(), color=BLUE, alpha=0.85)
    ax.axvline(0, color=INK, lw=1)
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
    note(ax, "exact", (0, 1), (5, -2), ("data", "axes fraction"), va="top")
    if len(inside) < len(values):
        ax.set_title(f"{len(values) - len(inside):,} outside the plot", fontsize=9, color=GREY, loc="right")
    ax.xaxis.set_major_formatter(plain)
    ax.set(xlabel="energy error ΔH of a trajectory (nats)", ylabel="trajectories")


def ranks(ax: Any, run: RunFolder, bins: int = 20) -> None:
    """Rank plot (Vehtari et al. 2021, arXiv:1903.08008, fig. 3): ranks of each chain's log posterior among those of
    all chains. Independent draws from one distribution stay within the band, two standard deviations of a count."""
    values = run.per_chain(run.trace["log_likelihood"] + run.trace["log_prior"])
    kept = values[values.index >= run.burn_in_end].to_numpy()  # (draws, C)
    order = np.argsort(kept, axis=None, kind="stable")
    rank = np.empty(kept.size)
    rank[order] = np.arange(kept.size)
    draws, chains = kept.shape
    bins = max(2, min(bins, draws // 5))
    edges = np.linspace(0, kept.size, bins + 1)
    level = draws / bins
    spread = 2 * np.sqrt(draws / bins * (1 - 1 / bins))
    ax.axhspan(level - spread, level + spread, color=PALE, lw=0, zorder=0)
    ax.axhline(level, color=GREY, lw=1, ls=(0, (1, 2)))
    for chain in range(chains):
        counts, _ = np.histogram(rank.reshape(kept.shape)[:, chain], edges)
        colour, dashes = CHAIN_STYLES[chain] if chains <= len(CHAIN_STYLES) else (BLUE, "-")
        alpha = 1.0 if chains <= len(CHAIN_STYLES) else 0.4
        ax.stairs(counts, edges, color=colour, ls=dashes, lw=1.3, alpha=alpha, baseline=None)
    ax.set(xlim=(0, kept.size), xlabel="rank of the log posterior among all chains", ylabel="draws per bin")
    ax.set_ylim(0, 1.25 * max(ax.get_ylim()[1], level + spread))
    note(ax, "band: ±2 standard deviations", (1, 1), (-4, -4), ha="right", va="top")


def energy(ax: Any, run: RunFolder) -> None:
    """Energy plot (Betancourt 2016, arXiv:1604.00695): the distribution of the energy, and of its change per
    iteration, which should not be much narrower."""
    energies = run.energies()
    marginal = (energies - np.median(energies, 0)).ravel()
    change = np.diff(energies, axis=0).ravel()
    # Twice the 90 % quantile is three standard deviations of a Gaussian, and robust to the end of a short burn-in.
    reach = 2 * float(max(np.quantile(np.abs(values), 0.9) for values in (marginal, change)))
    edges = np.linspace(-reach, reach, 41)
    ax.hist(marginal, edges.tolist(), density=True, color=BLUE, alpha=0.35, label="energy, centred")
    if outside := int((np.abs(marginal) > reach).sum()):
        ax.set_title(f"{outside:,} outside the plot", fontsize=9, color=GREY, loc="right")
    counts, _ = np.histogram(change, edges, density=True)
    ax.stairs(counts, edges, color=RED, lw=1.6, ls=(0, (4, 1.2)), label="change per iteration")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])
    ax.legend(loc="upper left")
    low = float(run.e_bfmi().min())
    if np.isfinite(low):  # E-BFMI needs four iterations
        note(ax, f"smallest E-BFMI {low:.2f}", (1, 1), (-4, -6), ha="right", va="top", color=INK)
    ax.xaxis.set_major_formatter(plain)
    ax.set(xlabel="energy (nats)", ylabel="density")
