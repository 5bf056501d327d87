"""What the step size does to the results of a sampler without a Metropolis test, measured by coupled chains.

    coarse   continues the run's chains, at its step size H
    fine     the same chains at H / 2, two steps for each of coarse's
    noise    coarse's normals are those of fine's two steps, added, over sqrt 2

Both begin where the run ended, so they stay close, and the mean difference of a function has a small variance: the
idea of multilevel Monte Carlo (Chada, Leimkuhler, Paulin & Whalley 2023, arXiv:2311.05025). Their minibatches are
drawn independently. A bias of order p loses 1 - 2^-p of itself when the step size halves, so the difference over
this share estimates all of it. The first part of both chains is discarded, while fine approaches its own law.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute.batches import count as count_of
from ..errors import UserError
from ..kernels import ops
from ..samplers.minibatch_chain import MinibatchChain, MinibatchSampler
from ..samplers.protocol import Sampler, restore
from ..targets.base import Target
from .diagnostics import mcse_mean
from .model_average import gaussian_log_density

__all__ = ["BiasCertificate", "Estimate", "bias_certificate", "refuse_tested"]

_DISCARDED = 0.25  # of the iterations, at the start
_FEWEST = 4  # iterations that are compared
_PARAMETERS = 1000  # of which moments are compared, evenly spread


@dataclass(frozen=True)
class Estimate:
    """A bias and its standard error."""

    value: float
    error: float

    @property
    def resolved(self) -> bool:
        """Whether it is more than two standard errors from 0."""
        return abs(self.value) > 2 * self.error

    def __str__(self) -> str:
        """As many decimals as two digits of the error need."""
        decimals = 1 - math.floor(math.log10(self.error)) if 0 < self.error < math.inf else 4
        return f"{self.value:.{max(0, decimals)}f} +- {self.error:.{max(0, decimals)}f}"


@dataclass(frozen=True)
class BiasCertificate:
    """Estimated biases: expectation at the run's step size less that at step size 0.

    Attributes:
        step_size: H. order: p, of the bias. iterations: those compared, of every chain. gradients: of all chains.
        nll: of the average prediction, per example; None without labels.
        score: accuracy, or root mean squared error, of single draws; None without labels.
        predictions: root mean square over test points of the bias of a probability, or of a predicted mean; None
            without test inputs. Its error is that of the square root's argument.
        mean, variance: of parameters, root mean squares over them, in units of their standard deviation and
            variance. With one chain, these three are not known: None.
    """

    step_size: float
    order: int
    iterations: int
    gradients: int
    nll: Estimate | None
    score: Estimate | None
    predictions: Estimate | None
    mean: Estimate | None
    variance: Estimate | None
    score_name: str

    def sentences(self) -> list[str]:
        """What was found, in words."""
        named = {
            "the NLL of the average": self.nll,
            f"the {self.score_name} of single draws": self.score,
            "predictions, rms": self.predictions,
            "means of parameters, rms in sd": self.mean,
            "variances of parameters, rms relative": self.variance,
        }
        given = {name: estimate for name, estimate in named.items() if estimate is not None}
        unresolved = [name for name, estimate in given.items() if not estimate.resolved]
        found = [
            f"Bias at step size {self.step_size:.3g}, from coupled chains at half of it and order {self.order}, "
            f"{self.iterations} iterations: {'; '.join(f'{name} {given[name]}' for name in given)}."
        ]
        if self.mean is None:
            found.append("From one chain those of predictions and parameters are not known: run two or more.")
        if unresolved:
            found.append(f"Within two standard errors of 0: {', '.join(unresolved)}.")
        return found

    def __str__(self) -> str:
        return "\n".join(self.sentences())


def refuse_tested(sampler: Sampler) -> None:
    """Raises UserError for a sampler that has no such bias, or does not share `MinibatchSampler`'s steps."""
    if sampler.has_metropolis_test:
        raise UserError(
            f"{sampler.name} has a Metropolis test, so its step size adds no bias: leave the certificate out"
        )
    if not isinstance(sampler, MinibatchSampler):
        raise UserError(f"{sampler.name} is no MinibatchSampler: its noise cannot be coupled")


def bias_certificate(
    target: Target,
    sampler: Sampler,
    final_state: dict[str, Tensor],
    theta: Tensor,
    *,
    test: Any = None,
    iterations: int,
    seed: int,
) -> BiasCertificate:
    """See `Run.bias_certificate`. theta: `(C, D)`, anything of the run's shape."""
    assert isinstance(sampler, MinibatchSampler)
    inputs, labels = test if isinstance(test, tuple) and len(test) == 2 else (test, None)
    if inputs is not None:
        inputs = target.inputs(inputs)
    if labels is not None:
        labels = target.labels(labels, count_of(inputs))
    with ops.using("torch"):  # the kernels do not add the noise of two steps
        coarse, fine = _coupled(target, sampler, final_state, theta, seed)
        step_size = float(coarse[1].step_size)
        differences = _Differences(target, inputs, labels)
        begin, discarded = (
            coarse[1].steps.count // coarse[0].steps_per_iteration,
            math.ceil(_DISCARDED * iterations),
        )
        compared = gradients = 0
        for iteration in range(iterations):
            for kind, state in (coarse, fine):
                _, info = kind.step(state)
                gradients += int(info.num_leapfrog) * len(theta)
                if bool(info.divergent.any()):
                    raise UserError(
                        f"a chain was lost in iteration {iteration} of the certificate: use a smaller step size"
                    )
            if iteration >= discarded and sampler.keeps(begin + iteration):  # of a cycle, those that are draws
                differences.add(coarse[1].theta, fine[1].theta)
                compared += 1
    if compared < _FEWEST:
        raise UserError(
            f"{compared} of {iterations} iterations can be compared, and {_FEWEST} are needed: use more iterations"
        )
    share = 1 - 2.0**-sampler.bias_order
    return BiasCertificate(
        step_size=step_size,
        order=sampler.bias_order,
        iterations=compared,
        gradients=gradients,
        **differences.estimates(share),
        score_name="RMSE" if labels is None or target.task == "regression" else "accuracy",
    )


_Coupled = tuple[Any, MinibatchChain]  # a MinibatchSampler, and its chains


def _coupled(
    target: Target, sampler: MinibatchSampler, final_state: dict[str, Tensor], theta: Tensor, seed: int
) -> tuple[_Coupled, _Coupled]:
    """The run's chains at its step size, with the noise of two steps in one, and at half of it."""
    steps = sampler.gradients_per_iteration(target)
    learned = sampler.step_size if sampler.schedule else float(final_state["step_size"])
    made = []
    for halvings in (0, 1):
        own: Any = copy.copy(sampler)
        own.adapt = False
        own.step_size, own.steps_per_iteration = learned / 2**halvings, steps * 2**halvings
        state = own.init(target, theta, seed=seed)
        restore(state, final_state)
        state.steps.load_state_dict({"count": final_state["steps.count"].to(target.device) * 2**halvings})
        state.joins_two = halvings == 0
        state.set_coefficients()
        made.append((own, state))
    return made[0], made[1]


class _Differences:
    """Functions of the states of both chains, iteration by iteration."""

    def __init__(self, target: Target, inputs: Any, labels: Tensor | None) -> None:
        self.target, self.inputs, self.labels = target, inputs, labels
        chosen = np.linspace(0, target.num_params - 1, min(target.num_params, _PARAMETERS)).astype(np.int64)
        self._chosen = torch.from_numpy(chosen).to(target.device)
        self._parameters: list[np.ndarray] = []  # (2, C, P) each
        self._density: list[np.ndarray] = []  # (2, C, T) of the labels
        self._score: list[np.ndarray] = []  # (2, C)
        self._prediction: Tensor | None = None  # (C, Q) sum of differences

    def add(self, coarse: Tensor, fine: Tensor) -> None:
        self._parameters.append(torch.stack((coarse, fine))[..., self._chosen].cpu().double().numpy())
        if self.inputs is None:
            return
        first, second = (self.target.predict(theta, self.inputs).double() for theta in (coarse, fine))
        values = [p[..., :1] if self.target.task == "regression" else p for p in (first, second)]
        change = (values[0] - values[1]).flatten(1)
        self._prediction = change if self._prediction is None else self._prediction + change
        if self.labels is not None and self.target.task != "custom":
            for_labels = [_of_labels(p, self.labels, self.target.task) for p in (first, second)]
            self._density.append(torch.stack([d for d, _ in for_labels]).float().cpu().numpy())
            self._score.append(torch.stack([s for _, s in for_labels]).cpu().numpy())

    def estimates(self, share: float) -> dict[str, Any]:
        """share: of the bias that halving the step size takes away."""
        parameters = np.moveaxis(np.stack(self._parameters), 0, 2)  # (2, C, S, P)
        centre, spread = parameters.mean((0, 1, 2)), parameters.std((0, 1, 2))
        scaled = (parameters - centre) / np.where(spread > 0, spread, 1)
        found: dict[str, Any] = {
            "mean": _rms((scaled[0] - scaled[1]).mean(1), share),
            "variance": _rms((scaled[0] ** 2 - scaled[1] ** 2).mean(1), share),
            "nll": None,
            "score": None,
            "predictions": None,
        }
        if self._prediction is not None:
            found["predictions"] = _rms((self._prediction / len(parameters[0, 0])).cpu().numpy(), share)
        if self._density:
            density = np.moveaxis(np.stack(self._density), 0, 2).astype(np.float64)  # (2, C, S, T)
            average = np.maximum(density.mean((0, 1, 2)), np.finfo(np.float64).tiny)
            # to first order: the average's NLL is no expectation
            found["nll"] = _estimate(-((density[0] - density[1]) / average).mean(2), share)
            score = np.moveaxis(np.stack(self._score), 0, 2)  # (2, C, S)
            if self.target.task == "regression":
                score = score / (2 * math.sqrt(score.mean()))  # of the root, from that of the square
            found["score"] = _estimate(score[0] - score[1], share)
        return found


def _of_labels(p: Tensor, labels: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Of predictions `(C, T, K)`: the density of each label `(C, T)`; accuracy, or mean squared error `(C,)`."""
    if task == "classification":
        labels = labels.long()
        return p[:, torch.arange(p.shape[1], device=p.device), labels], (p.argmax(-1) == labels).double().mean(1)
    mean, variance = p.unbind(-1)
    return gaussian_log_density(mean, variance, labels).exp(), ((labels - mean) ** 2).mean(1)


def _estimate(difference: np.ndarray, share: float) -> Estimate:
    """Of differences `(C, S)`, correlated along S; all the same, they have no error."""
    error = float(mcse_mean(difference[..., None])[0]) if np.ptp(difference) else 0.0
    return Estimate(float(difference.mean()) / share, error / share)


def _rms(means: np.ndarray, share: float) -> Estimate | None:
    """Root mean square over Q of differences `(C, Q)`, means of each chain, without what their noise adds; its
    error is that of the mean square, as a root. None with one chain, whose noise is not known."""
    chains = len(means)
    if chains == 1:
        return None
    noise = means.var(0, ddof=1) / chains
    square = float(np.mean(means.mean(0) ** 2 - noise))
    return Estimate(math.sqrt(max(0.0, square)) / share, math.sqrt(float(noise.mean())) / share)
