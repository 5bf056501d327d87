"""A run as arviz's `InferenceData`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from .run import Run

__all__ = ["inference_data"]


def inference_data(run: "Run") -> Any:
    """An `arviz.InferenceData`: parameters by name, function values, and sample statistics.

    Raises:
        UserError: arviz is not installed.
    """
    try:
        import arviz
    except ImportError as error:
        raise UserError("to_arviz needs arviz: pip install 'hmc_fast[arviz]'") from error
    draws = np.moveaxis(np.asarray(run.draws, dtype=np.float32), 0, 1)  # (C, S, D)
    posterior, begin = {}, 0
    for name, shape in run.target.parameter_shapes().items():
        end = begin + int(np.prod(shape))
        posterior[name] = draws[:, :, begin:end].reshape(*draws.shape[:2], *shape)
        begin = end
    if run.function_draws.shape[2]:
        posterior["function"] = run.function_draws
    kept = run.history[run.plan.kept_iterations(run.sampler)]
    statistics = {
        "lp": kept.log_density.T,
        "acceptance_rate": kept.accept_prob.T,
        "diverging": kept.divergent.T.astype(bool),
        "n_steps": kept.leapfrog_steps.T.astype(np.int64),
    }
    return arviz.from_dict(posterior=posterior, sample_stats=statistics)
