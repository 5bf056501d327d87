"""What does the posterior look like on the plane through three draws? (Izmailov et al. 2021, fig. 4)

After Garipov et al. 2018, arXiv:1802.10026:

    w(a, b) = w1 + a |u| u^ + b |v| v^,   u = w2 - w1,   v = w3 - w1 made orthogonal to u

so w1 lies at (0, 0), w2 at (1, 0) and w3 at ((w3 - w1) . u / |u|^2, 1).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ...errors import UserError
from ...report.drawing import INK, RED
from ..page import Page
from ..run_cache import Lab

QUESTION = "What does the posterior look like on the plane through three draws?"
GRID, LOW, HIGH = 50, -0.75, 1.75
ROWS = 50  # grid points evaluated in one batched pass
SURFACES = ("log posterior", "log likelihood", "log prior")


@dataclass(frozen=True)
class Plane:
    """An origin and two orthogonal directions `(D,)`, whose lengths are the units of the axes."""

    origin: np.ndarray
    along: np.ndarray
    across: np.ndarray

    @staticmethod
    def through(points: np.ndarray) -> "Plane":
        """The plane through `points (3, D)`."""
        w1, w2, w3 = points.astype(np.float64)
        u = w2 - w1
        v = (w3 - w1) - u * ((w3 - w1) @ u) / max(u @ u, 1e-300)
        if not (u @ u > 0 and v @ v > 1e-12 * (u @ u)):
            raise UserError(
                "the three draws lie on one line, so the chain has stopped moving: use more draws or longer "
                "trajectories"
            )
        return Plane(w1, u, v)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Coordinates (a, b) of the orthogonal projections of `points (n, D)` onto the plane, `(n, 2)`."""
        centred = points.astype(np.float64) - self.origin
        return np.stack([centred @ d / (d @ d) for d in (self.along, self.across)], axis=1)

    def at(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.origin + a[:, None] * self.along + b[:, None] * self.across


def answer(lab: Lab, page: Page) -> None:
    """Needs 3 chains with 3 draws each."""
    s = lab.settings
    if s.chains < 3:
        raise UserError(f"--chains {s.chains} is too few: a plane needs one draw from each of 3 chains")
    if s.draws < 3:
        raise UserError(f"--draws {s.draws} is too few: a plane needs 3 draws from one chain")
    (sample,) = lab.obtain([lab.hmc(seed=s.seed)])
    middle, last = (s.draws - 1) // 2, s.draws - 1
    chain = np.asarray(sample.draws[:, 0], dtype=np.float64)
    within, ends = chain[[0, middle, last]], np.asarray(sample.draws[last, :3], dtype=np.float64)
    cases = [
        (
            "one_chain",
            f"Three draws of one chain (1, {middle + 1}, {last + 1})",
            within,
            ["draw 1", f"draw {middle + 1}", f"draw {last + 1}"],
            [chain],
        ),
        (
            "three_chains",
            "One draw of each of three chains",
            ends,
            ["chain 1", "chain 2", "chain 3"],
            [np.asarray(sample.draws[:, c], dtype=np.float64) for c in range(3)],
        ),
    ]
    rows = []
    for name, title, points, labels, paths in cases:
        plane = Plane.through(points)
        axis = np.linspace(LOW, HIGH, GRID)
        a, b = np.meshgrid(axis, axis)
        values = _evaluate(lab, plane.at(a.ravel(), b.ravel())).reshape(3, GRID, GRID)
        at_points = _evaluate(lab, points)
        where = plane.project(points)
        relative = values - at_points[:, :1, None]
        _draw(page, name, title, axis, relative, where, labels, [plane.project(path) for path in paths])
        page.interactive.append(
            (
                f"{title}, in 3-D",
                _solid(axis, values, where, at_points, labels, script=not page.interactive),
            )
        )
        edges = (np.array([[0.5, 0.0]]), where[1:].mean(0)[None], where[[0, 2]].mean(0)[None])
        between = _evaluate(lab, np.concatenate([plane.at(e[:, 0], e[:, 1]) for e in edges]))
        for index, surface in enumerate(SURFACES):
            rows.append(
                {
                    "plane": name,
                    "surface": surface,
                    **dict(zip(("at 1", "at 2", "at 3"), at_points[index], strict=True)),
                    "between 1, 2": between[index, 0],
                    "between 2, 3": between[index, 1],
                    "between 1, 3": between[index, 2],
                    "grid max": values[index].max(),
                    "grid min": values[index].min(),
                }
            )
    table = pd.DataFrame(rows)
    page.table("surface", "Log densities at the draws, halfway between them, and over the grid (nats)", table)
    _claims(page, table)


def _evaluate(lab: Lab, rows: np.ndarray) -> np.ndarray:
    """Log posterior, log likelihood and log prior of `rows (n, D)`, `(3, n)`, in batches of `ROWS` rows."""
    posterior, found = lab.posterior, []
    for block in np.array_split(rows, max(1, -(-len(rows) // ROWS))):
        theta = torch.from_numpy(block).to(posterior.device, posterior.dtype)
        log_lik = theta.new_empty(len(theta), posterior.num_data)
        posterior.log_likelihood(theta, log_lik)
        found.append(torch.stack((log_lik.double().sum(1), posterior.log_prior(theta))).cpu().numpy())
    likelihood, prior = np.concatenate(found, axis=1)
    return np.stack((likelihood + prior, likelihood, prior))


def _draw(
    page: Page,
    name: str,
    title: str,
    axis: np.ndarray,
    values: np.ndarray,
    where: np.ndarray,
    labels: list[str],
    paths: list[np.ndarray],
) -> None:
    caption = (
        "Filled contours in nats relative to the first of the three draws; every colour covers the same number of "
        "grid points. Dots: the three draws. Thin lines: all draws of the chains projected onto the plane; most "
        "lie far from it."
    )
    with page.figure(name, title, caption, (11.4, 3.15)) as figure:
        from matplotlib.colors import BoundaryNorm

        for ax, surface, z in zip(figure.subplots(1, 3), SURFACES, values, strict=True):
            levels = np.unique(np.quantile(z, np.linspace(0, 1, 25)))
            drawn = ax.contourf(axis, axis, z, levels=levels, cmap="magma", norm=BoundaryNorm(levels, 256))
            ax.contour(axis, axis, z, levels=levels[::2], colors="white", linewidths=0.35, alpha=0.55)
            for path in paths:
                ax.plot(path[:, 0], path[:, 1], color="white", lw=0.7, alpha=0.75)
            ax.plot(where[:, 0], where[:, 1], "o", ms=7, mfc=RED, mec="white", mew=1.2, zorder=5)
            for (x, y), label in zip(where, labels, strict=True):
                ax.annotate(
                    label,
                    (x, y),
                    (7, 5),
                    textcoords="offset points",
                    color=INK,
                    fontsize=8.5,
                    bbox={"fc": "white", "lw": 0, "alpha": 0.8, "pad": 1.2},
                )
            bar = figure.colorbar(drawn, cax=ax.inset_axes((1.03, 0, 0.05, 1)), ticks=levels[::6])
            bar.ax.set_yticklabels([f"{v:,.0f}".replace("-", "−") for v in levels[::6]])
            bar.outline.set_visible(False)
            ax.set(
                aspect="equal", xlim=(LOW, HIGH), ylim=(LOW, HIGH), xticks=(-0.5, 0.5, 1.5), yticks=(-0.5, 0.5, 1.5)
            )
            ax.set_title(surface, fontsize=10.5, weight="bold", loc="left")


def _solid(
    axis: np.ndarray, values: np.ndarray, where: np.ndarray, heights: np.ndarray, labels: list[str], *, script: bool
) -> str:
    """The three surfaces `(3, GRID, GRID)` as a plotly figure with one button each; `script` embeds plotly itself,
    so that the page works offline."""
    import plotly.graph_objects as go

    figure, buttons = go.Figure(), []
    for index, (name, z, height) in enumerate(zip(SURFACES, values, heights, strict=True)):
        floor = np.quantile(z, 0.15)  # the corners are lower by orders of magnitude and would flatten the rest
        figure.add_surface(
            x=axis,
            y=axis,
            z=np.maximum(z, floor).round(1),
            colorscale="Magma",
            contours_z={"show": True, "color": "rgba(255,255,255,0.6)", "width": 1},
            lighting={"ambient": 0.75, "diffuse": 0.5, "specular": 0.1, "roughness": 0.9},
            showscale=False,
            hovertemplate="%{z:,.0f} nats<extra></extra>",
            visible=index == 0,
        )
        figure.add_scatter3d(
            x=where[:, 0],
            y=where[:, 1],
            z=height,
            mode="markers+text",
            text=labels,
            marker={"size": 6, "color": RED, "line": {"color": "white", "width": 2}},
            hovertemplate="%{text}: %{z:,.0f} nats<extra></extra>",
            visible=index == 0,
        )
        shown = [trace // 2 == index for trace in range(2 * len(SURFACES))]
        title = {"scene.zaxis.title.text": f"{name} (nats)"}
        buttons.append({"label": name, "method": "update", "args": [{"visible": shown}, title]})
    figure.update_layout(
        scene={
            "xaxis_title": "a",
            "yaxis_title": "b",
            "zaxis_title": f"{SURFACES[0]} (nats)",
            "camera": {"eye": {"x": -1.35, "y": -1.6, "z": 1.0}, "center": {"x": 0, "y": 0, "z": -0.12}},
        },
        updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1}
            | {"yanchor": "top", "pad": {"t": 4, "l": 4}}
        ],
        height=600,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        showlegend=False,
    )
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=script, config=config))


def _claims(page: Page, table: pd.DataFrame) -> None:
    for name, told in (("one_chain", "draws of one chain"), ("three_chains", "draws of three chains")):
        chosen = table[table["plane"] == name].set_index("surface")
        at, half_way = ["at 1", "at 2", "at 3"], ["between 1, 2", "between 2, 3", "between 1, 3"]
        points, between = (chosen[keys].loc["log likelihood"].to_numpy(float) for keys in (at, half_way))
        at_draws = chosen[at].loc["log posterior"].to_numpy(float).max()
        on_grid = float(chosen["grid max"].to_numpy(float)[0])
        page.claim(
            f"The log likelihood drops halfway between {told}: a region of low likelihood separates them.",
            bool(between.max() < points.min()),
            f"Log likelihood at the draws {', '.join(f'{v:,.0f}' for v in points)}, between pairs "
            f"{', '.join(f'{v:,.0f}' for v in between)} nats. The log posterior peaks away "
            f"from the draws: {on_grid:,.0f} on the grid against {at_draws:,.0f}, because the "
            "prior density is highest at the origin while its mass lies far out.",
        )
