"""The gradients that a run will take. Where burn-in learns how many an iteration takes, they are told again."""

from ..results.trace import Plan, Trace
from ..samplers.protocol import Sampler, State
from ..targets.base import Target

__all__ = ["LearnedWork", "expected_gradients"]


def expected_gradients(sampler: Sampler, target: Target, plan: Plan) -> tuple[int, tuple[str, ...]]:
    """Gradients of a chain in the whole run, and what to print if that is a guess."""
    iterations = plan.kept_iterations(sampler)[-1] + 1
    if not hasattr(sampler, "forecast"):
        return iterations * sampler.gradients_per_iteration(target), ()
    expected, most = sampler.forecast(plan.burn_in, iterations)
    if expected == most:
        return expected, ()
    return expected, (
        f"trajectory lengths are learned in burn-in: about {expected:,} gradients of each chain, at most {most:,}; "
        "told again as they are learned",
    )


class LearnedWork:
    """Tells how many gradients are left, when burn-in has learned it and again whenever that doubles or halves."""

    def __init__(self) -> None:
        self._told = 0

    def news(self, state: State, iterations_left: int, recent: Trace) -> str | None:
        """A line to print, or None. recent: iterations, for the time of a gradient."""
        learned = getattr(state, "learned_gradients", None)
        if learned is None or self._told / 2 < learned < self._told * 2:
            return None
        self._told, left = learned, iterations_left * learned
        seconds = left * recent.seconds[:, 0].sum() / recent.leapfrog_steps[:, 0].sum()
        return (
            f"trajectories of {learned:,} leapfrog steps, as learned so far: about {left:,} gradients of each "
            f"chain are left, {seconds:.3g} s"
        )
