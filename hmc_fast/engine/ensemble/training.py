"""How members are trained: settings that are checked when they are made, and the training itself."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from ...arguments import positive, shown, whole_number
from ...compute.random_streams import check_seed
from ...dynamics.gradient_step import Graph, checked_graph
from ...errors import UserError
from ...kernels import ops
from ...messages import tell
from ...targets.base import Target
from ...targets.fingerprint import digest, printed
from ...targets.posterior import Posterior
from ..execution import Compile, choose
from ..progress import Progress
from ..start import refuse_undefined_start
from .early_stopping import EarlyStopping
from .held_out import HeldOut, split
from .members import Members
from .optimisers import SGD, AdamW, Optimiser

__all__ = ["Training"]

_OPTIMISERS: dict[str, Callable[[float], Optimiser]] = {"adamw": AdamW, "sgd": SGD}
_LEARNING_RATES = {"adamw": 1e-3, "sgd": 0.05}
_WEIGHT_DECAYS = {"adamw": 0.01, "sgd": 5e-4}
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Training:
    """Trains the members of a deep ensemble together, each from a fresh network of its own.

    `hmc_fast.run(posterior, sampler, init=Training(epochs=50))` begins every chain at one of them; with `MCLMC` as
    the sampler that is MILE (Sommer et al. 2025, arXiv:2502.06335). `init="train"` uses the defaults.

    Args:
        epochs: passes over the training data, at most; over all of them the learning rate falls to 0 along a
            cosine.
        learning_rate: None: 1e-3 for AdamW, .05 for SGD.
        optimizer: "adamw", or "sgd" with momentum .9.
        weight_decay: None: .01 for AdamW (decoupled, torch's own default), 5e-4 for SGD; 0 with objective
            "posterior", which must have no other.
        batch_size: examples per step of each member; None: 64, or all if they are fewer.
        held_out: the share of the training data on which each member is judged after each epoch, to keep its best
            parameters. Chains are sampled with all data afterwards. 0 keeps the last parameters.
        patience: epochs without improvement after which a member's training ends.
        objective: "likelihood": mean negative log likelihood and weight decay, so members do not depend on the
            prior and serve runs with any; "posterior": minus the log posterior over N at T = 1, whose minimum is
            the mode.
        start: "fresh": every layer's `reset_parameters()`, another for each member; "model": the module's own
            values, for weights that were trained before; "prior"; or what else `init` may be.

    Raises:
        UserError: a number out of range, an unknown name, or a weight decay beside a prior.
    """

    epochs: int = 100
    learning_rate: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float | None = None
    batch_size: int | None = None
    held_out: float = 0.1
    patience: int = 10
    objective: Literal["likelihood", "posterior"] = "likelihood"
    start: "str | Tensor | Mapping[str, Tensor]" = "fresh"

    def __post_init__(self) -> None:
        for name, known in (("optimizer", tuple(_OPTIMISERS)), ("objective", ("likelihood", "posterior"))):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{name} {shown(value)} is unknown: use {' or '.join(map(repr, known))}")
        whole_number("epochs", self.epochs)
        whole_number("patience", self.patience)
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size)
        if self.learning_rate is not None:
            positive("learning_rate", self.learning_rate)
        if self.weight_decay is not None and self.weight_decay != 0:
            positive("weight_decay", self.weight_decay)
        if self.held_out != 0 and positive("held_out", self.held_out) >= 1:
            raise UserError(f"held_out {self.held_out} must be a share of the training data, in [0, 1)")
        if self.objective == "posterior" and self.weight_decay:
            raise UserError(
                f"weight_decay {self.weight_decay} beside objective 'posterior', which has the prior: leave one out"
            )
        rate = self.rate
        if rate * self._decay >= 1:
            raise UserError(
                f"learning_rate {rate} times weight_decay {self._decay} is the share of a weight that is lost per "
                "step: it must be under 1"
            )

    @property
    def rate(self) -> float:
        """The first learning rate."""
        return _LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def _decay(self) -> float:
        if self.objective == "posterior":
            return 0.0
        return _WEIGHT_DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay

    def fingerprint(self) -> dict[str, Any]:
        """All settings, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        start = self.start
        if isinstance(start, Mapping):
            start = digest(*(start[name] for name in sorted(start)))
        return values | {"start": digest(start) if isinstance(start, Tensor) else printed(start)}

    def members(
        self,
        target: Target,
        chains: int = 4,
        seed: int = 0,
        *,
        compile: Compile = "auto",
        graph: Graph = "auto",
        progress: bool = True,
    ) -> Tensor:
        """Trained members `(C, D)`: the same for the same seed on one machine.

        Args:
            target: a `Posterior`; neither its prior (unless it is the objective) nor its temperature matters.
            compile, graph, progress: as for `hmc_fast.run`.

        Raises:
            UserError: a density without data, more examples per batch than there are, a log likelihood that is
                undefined at the start, or a member that diverges.
        """
        chains, target = whole_number("chains", chains), self.trainable(target)
        check_seed(seed)
        stream = nullcontext() if target.stream is None else target.stream.open()
        with ops.using(target.kernels), stream:
            return self._trained(target, chains, seed, compile, checked_graph(target, graph), progress)

    def trainable(self, target: Target) -> Posterior:
        """The target, if these settings fit it.

        Raises:
            UserError: they do not.
        """
        if not isinstance(target, Posterior):
            raise UserError(
                f"a bare {type(target).__name__} has no data to train on: give init 'uniform' or a tensor"
            )
        self._batch_size(len(split(target.num_data, self.held_out, 0)[0]))
        return target

    def _batch_size(self, num_rows: int) -> int:
        if self.batch_size is not None and self.batch_size > num_rows:
            raise UserError(
                f"batch_size {self.batch_size} of training must be at most {num_rows}, the examples that are not "
                "held out"
            )
        return self.batch_size or min(_BATCH_SIZE, num_rows)

    def _trained(
        self, target: Posterior, chains: int, seed: int, compile: Compile, graph: Graph, progress: bool
    ) -> Tensor:
        begin, start = time.monotonic(), target.initial(self.start, chains, seed)
        rows, held_out_rows = split(target.num_data, self.held_out, seed)
        batch_size = self._batch_size(len(rows))
        total = self.epochs * math.ceil(len(rows) / batch_size)
        uses_prior = self.objective == "posterior"
        objective = target if uses_prior else target.likelihood_alone()
        choice = choose(objective, chains, batch_size, total, compile=compile, graph=graph)
        if progress:
            tell(*(f"training: {reason}" for reason in choice.reasons))
        members = Members(
            choice.target,
            start,
            _OPTIMISERS[self.optimizer](self._decay),
            rows,
            batch_size=batch_size,
            learning_rate=self.rate,
            total=total,
            uses_prior=uses_prior,
            seed=seed,
            graph=graph,
        )
        held_out = HeldOut(target, held_out_rows) if len(held_out_rows) else None
        stopping = EarlyStopping(start, self.patience if held_out else self.epochs)
        bar = Progress(self.epochs, 0, progress)
        try:
            for epoch in range(self.epochs):
                train_loss = members.epoch()
                loss = train_loss if held_out is None else held_out.losses(members.theta)
                in_training = ~stopping.stopped
                stopping.update(members.theta, loss, epoch)
                defined = torch.isfinite(members.theta.sum(1) + loss + train_loss)
                state = torch.stack([train_loss, loss, defined | ~in_training, stopping.stopped]).cpu()  # one wait
                if not state[2].all():
                    refuse_undefined_start(target, start)
                    raise self._diverged(int(state[2].argmin()), epoch, state[:2], members.theta)
                bar.update("training", lambda: _figures(state[0], state[1], held_out is not None))  # noqa: B023
                if state[3].all():
                    break
        finally:
            bar.close()
        found = members.theta if held_out is None else stopping.best
        if progress:
            tell(self._report(epoch + 1, loss if held_out is None else stopping.loss, held_out, found, begin))
        return found.clone()

    def _diverged(self, member: int, epoch: int, losses: Tensor, theta: Tensor) -> UserError:
        if bool(torch.isnan(losses[:, member]).any() and torch.isfinite(theta[member]).all()):
            return UserError(
                f"the log likelihood of member {member} is NaN in epoch {epoch + 1} of training, where its "
                f"parameters are finite: keep it defined there, or use a learning rate below {self.rate:g}"
            )
        return UserError(
            f"member {member} diverged to NaN or infinity in epoch {epoch + 1} of training: use a learning rate "
            f"below {self.rate:g}"
        )

    def _report(self, epochs: int, loss: Tensor, held_out: HeldOut | None, theta: Tensor, begin: float) -> str:
        """In one line."""
        where = "last epoch's" if held_out is None else "held-out"
        words = f"trained {len(theta)} members in {epochs} epochs (of at most {self.epochs})"
        words += f", {time.monotonic() - begin:.1f} s: {where} NLL {_range(loss)}"
        accuracies = None if held_out is None else held_out.accuracies(theta)
        return words if accuracies is None else f"{words}, accuracy {_range(accuracies)}"


def _figures(train_loss: Tensor, loss: Tensor, is_held_out: bool) -> dict[str, str]:
    figures = {"NLL": _range(train_loss)}
    return figures | {"held-out": _range(loss)} if is_held_out else figures


def _range(values: Tensor) -> str:
    """Of the members: smallest to largest."""
    low, high = f"{float(values.min()):.4g}", f"{float(values.max()):.4g}"
    return low if low == high else f"{low} to {high}"
