"""The trace, which records every iteration by name, and the plan, which says which iterations are kept.

Shapes: I iterations, C chains.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..arguments import whole_number
from ..compute.device import free_memory, human
from ..dynamics.schedules import CosineCyclical, PolynomialDecay
from ..errors import UserError
from ..samplers.minibatch_chain import MinibatchSampler
from ..samplers.protocol import Info, Sampler

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_ITERATIONS", "TRACE_COLUMNS", "Plan", "Trace"]

MOST_ITERATIONS = 2**25  # a trace of 2.5 GiB for every chain


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many iterations there are, and which are kept.

    Raises:
        UserError: a number below its minimum.
    """

    burn_in: int
    draws: int
    thin: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("burn_in", self.burn_in, 0),
            ("draws", self.draws, 1),
            ("thin", self.thin, 1),
        ):
            whole_number(name, value, least=least)

    def kept_iterations(self, sampler: Sampler) -> list[int]:
        """The iterations whose draws are stored: every thin-th of those the sampler keeps.

        Raises:
            UserError: there would be more than MOST_ITERATIONS.
        """
        self._check(self.burn_in + self.draws * self.thin)
        cycle = _cycle(sampler)
        if cycle is not None:
            before = cycle.kept_before(self.burn_in)
            self._check(cycle.kept(before + self.draws * self.thin - 1) + 1)
            return cycle.kept(before - 1 + self.thin * np.arange(1, self.draws + 1)).tolist()
        kept: list[int] = []
        iteration, eligible = self.burn_in, 0
        while len(kept) < self.draws:
            self._check(iteration + 1)
            if sampler.keeps(iteration):
                eligible += 1
                if eligible % self.thin == 0:
                    kept.append(iteration)
            iteration += 1
        return kept

    def _check(self, iterations: int) -> None:
        if iterations > MOST_ITERATIONS:
            raise UserError(
                f"burn_in {self.burn_in}, draws {self.draws} and thin {self.thin} make {iterations:,} iterations, "
                f"and at most {MOST_ITERATIONS:,} are possible: use fewer draws, or a smaller thin or cycle length"
            )


def _cycle(sampler: Sampler) -> CosineCyclical | None:
    """The cycle by which draws are kept, of length 1 if all are; None if only the sampler knows."""
    schedule, keeps = getattr(sampler, "schedule", None), getattr(sampler.keeps, "__func__", None)
    if keeps is MinibatchSampler.keeps and isinstance(schedule, CosineCyclical):
        return schedule
    keeps_all = schedule is None or isinstance(schedule, PolynomialDecay)
    return CosineCyclical(1) if keeps_all and keeps in (Sampler.keeps, MinibatchSampler.keeps) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """One value per iteration and chain, float64 `(I, C)` each, in the column order of `trace.csv`.

    `trace[rows]` is the trace of those iterations; its arrays are views if numpy's indexing gives views.
    """

    log_likelihood: np.ndarray  # sum over the data; SG samplers: estimated on the iteration's minibatches
    log_prior: np.ndarray
    energy_error: np.ndarray  # dH of the proposal; NaN where there is no Metropolis test
    accept_prob: np.ndarray  # NaN where there is no Metropolis test
    accepted: np.ndarray  # 0 or 1
    divergent: np.ndarray  # 0 or 1
    step_size: np.ndarray
    leapfrog_steps: np.ndarray
    seconds: np.ndarray  # wall-clock time of the iteration, predictions included
    kinetic_energy: np.ndarray  # NaN where there is no momentum

    @classmethod
    def empty(cls, iterations: int, chains: int) -> "Trace":
        """A trace full of NaN, to be filled by `record`. Raises UserError if it does not fit into memory."""
        needed, free = len(TRACE_COLUMNS) * 8 * iterations * chains, free_memory(torch.device("cpu"))
        if needed > free:
            raise UserError(
                f"the trace of {iterations:,} iterations of {chains:,} chains takes {human(needed)}, and "
                f"{human(free)} are free: use fewer draws or chains, or a smaller thin"
            )
        return cls(**{name: np.full((iterations, chains), np.nan) for name in TRACE_COLUMNS})

    def record(self, rows: "int | slice", info: Info) -> None:
        """Writes everything about one iteration, or several, except seconds. The host waits for the device here,
        once."""
        figures = torch.stack([getattr(info, name).to(torch.float64) for name in _ON_DEVICE]).cpu().numpy()
        for name, values in zip(_ON_DEVICE, figures, strict=True):
            getattr(self, name)[rows] = values
        self.leapfrog_steps[rows] = info.num_leapfrog

    def __getitem__(self, rows: "slice | list[int] | np.ndarray") -> "Trace":
        return Trace(**{name: getattr(self, name)[rows] for name in TRACE_COLUMNS})

    def __len__(self) -> int:
        return len(self.log_likelihood)

    @property
    def log_density(self) -> np.ndarray:
        """Log likelihood plus log prior, `(I, C)`."""
        return np.asarray(self.log_likelihood + self.log_prior)

    def frame(self, burn_in: int, first: int = 0) -> "pd.DataFrame":
        """The contents of `trace.csv`: one row per iteration and chain.

        burn_in: number of burn-in iterations. first: the number of this trace's first iteration.
        """
        import pandas as pd

        iteration, chain = (index.ravel() for index in np.indices(self.log_likelihood.shape))
        iteration += first
        phase = np.where(iteration < burn_in, "burn_in", "sampling")
        columns = {name: getattr(self, name).ravel() for name in TRACE_COLUMNS}
        columns |= {name: columns[name].astype(np.int64) for name in ("accepted", "divergent", "leapfrog_steps")}
        return pd.DataFrame({"chain": chain, "iteration": iteration, "phase": phase} | columns)

    # --- checkpoint ---

    def rows(self, first: int, end: int) -> np.ndarray:
        """Of some iterations all figures, float64 `(end - first, columns, C)`."""
        return np.stack([getattr(self, name)[first:end] for name in TRACE_COLUMNS], axis=1)

    def restore(self, rows: np.ndarray) -> None:
        """Fills the first iterations from the `rows` of an interrupted run."""
        for index, name in enumerate(TRACE_COLUMNS):
            getattr(self, name)[: len(rows)] = rows[:, index]


TRACE_COLUMNS = tuple(field.name for field in dataclasses.fields(Trace))

# The columns that `Info` has under the same name, as tensors `(C,)`.
_ON_DEVICE = tuple(name for name in TRACE_COLUMNS if name not in ("leapfrog_steps", "seconds"))
