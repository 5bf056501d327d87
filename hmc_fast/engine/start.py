"""Chains must start where the density is defined, or they never move, and nothing says why."""

import torch
from torch import Tensor

from ..errors import UserError
from ..targets.base import Target
from ..targets.density import Density

__all__ = ["refuse_undefined_start"]


def refuse_undefined_start(target: Target, theta: Tensor) -> None:
    """Evaluates every example at `theta (C, D)`.

    Raises:
        UserError: a log likelihood that is NaN or infinite; names the chain and the example.
    """
    log_lik = theta.new_empty(len(theta), target.num_data)
    target.log_likelihood(theta, log_lik)
    undefined = torch.nonzero(~torch.isfinite(log_lik))
    if not len(undefined):
        return
    chain, example = undefined[0].tolist()
    value = float(log_lik[chain, example])
    if isinstance(target, Density):
        raise UserError(f"the log density is {value} at the start of chain {chain}: choose another init")
    raise UserError(
        f"the log likelihood of example {example} is {value} at the start of chain {chain}: check X[{example}], "
        f"y[{example}] and the likelihood, or choose another init"
    )
