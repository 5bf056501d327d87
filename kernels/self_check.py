"""Two implementations of every operation on the same inputs: kernels beside their twins, twins beside formulas.

An implementation has the functions of `reference.py`. Sizes are awkward ones: a single element, and rows that
neither a block, a vector access nor a group of four random numbers divides.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops
from .ops import Counter, Segment

__all__ = ["FAMILIES", "OPERATIONS", "Disagreement", "Varies", "compare", "triton_operations"]

# name -> (family, shape)
FAMILIES: dict[str, tuple[int, tuple[float, float]]] = {
    "flat": (ops.FLAT, (0.0, 0.0)),
    "normal": (ops.NORMAL, (0.0, 0.0)),
    "laplace": (ops.LAPLACE, (0.0, 0.0)),
    "logistic": (ops.LOGISTIC, (0.0, 0.0)),
    "student_t": (ops.STUDENT_T, (4.0, 0.0)),
    "mixture": (ops.MIXTURE, (0.3, 0.1)),
}


class Varies(NamedTuple):
    """Which numbers of a prior differ from element to element: each combination is a kernel of its own."""

    scale: bool = False
    mean: bool = False

    def __str__(self) -> str:
        return f"{'a scale per element' if self.scale else 'one scale'}, {'means' if self.mean else 'mean 0'}"


# Every family once, and a mean: half a second each to compile for a GPU.
_PRIORS: dict[str, tuple[Varies, ...]] = {
    "flat": (Varies(),),
    "normal": (Varies(), Varies(mean=True)),
    "laplace": (Varies(scale=True),),
    "logistic": (Varies(),),
    "student_t": (Varies(scale=True),),
    "mixture": (Varies(),),
}

# In the order of what depends on what: the first to disagree is where to look.
OPERATIONS = (
    "philox",
    "uniforms",
    "normals",
    "kick",
    "kick_drift",
    "kick_flow",
    "force",
    "refresh_momentum",
    "kinetic_energy",
    "log_prior",
    "prior_difference",
    "energy_difference",
    "likelihood_difference",
    "metropolis_test",
    "select",
    "read_window",
    "end_step",
    "store",
    "accumulate_softmax",
)
_SHAPES = tuple((chains, size) for size in (1, 31, 1023, 4097) for chains in (1, 3))


@dataclass(frozen=True)
class Disagreement:
    """Where two implementations differ. difference: the largest, absolute; allowed: what rounding explains."""

    operation: str
    case: str
    difference: float
    allowed: float

    def __str__(self) -> str:
        return f"{self.operation}, {self.case}: off by {self.difference:.3g}, rounding explains {self.allowed:.3g}"


def triton_operations() -> Any:
    """The kernels as an implementation."""
    return SimpleNamespace(**{name: functools.partial(getattr(ops, name), impl="triton") for name in OPERATIONS})


def compare(
    first: Any,
    second: Any,
    operation: str,
    device: torch.device,
    *,
    shapes: Sequence[tuple[int, int]] = _SHAPES,
    priors: Mapping[str, Sequence[Varies]] = _PRIORS,
    dtype: torch.dtype = torch.float32,
) -> tuple[int, list[Disagreement]]:
    """Runs `operation` by both implementations on `device`, and returns the number of cases and those that differ.

    shapes: (C, D). priors: families, and how each varies. dtype: of the buffers; float64 ones are held to float32's
    rounding.
    """
    count, found = 0, []
    for case, run, allowed in _CASES[operation](_Scope(device, shapes, priors, dtype)):
        count += 1
        results = [run(implementation) for implementation in (first, second)]
        for a, b in zip(*results, strict=True):
            if (difference := _difference(a, b)) > (bound := allowed(b)):
                found.append(Disagreement(operation, case, difference, bound))
                break
    return count, found


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    return float((a.double() - b.double()).abs().nan_to_num(nan=float("inf")).max())


def _same_bits(result: Tensor) -> float:
    return 0.0


def _rounded(result: Tensor) -> float:
    """A few units in the last place of float32, of terms like the largest result."""
    return 1e-5 * max(1.0, float(result.double().abs().max()))


def _summed(result: Tensor) -> float:
    """Of float64 sums of up to 4,097 terms near 1."""
    return 1e-9


# --- inputs ---


class _Inputs:
    """Random buffers of one shape, made on the CPU so that every device sees the same."""

    def __init__(self, device: torch.device, chains: int, size: int, dtype: torch.dtype) -> None:
        self.device, self.chains, self.size, self.dtype = device, chains, size, dtype
        self._generator = torch.Generator().manual_seed(chains * 10_000 + size)
        self.theta, self.momentum, self.grad = self.normal(), self.normal(), self.normal()
        spread = 1 + torch.rand(chains, 4, generator=self._generator)
        self.coefficients = (torch.tensor([0.1, 0.7, 0.8, 0.3]) * spread).to(device, dtype)
        self.flow = torch.cat([self.coefficients, self.coefficients[:, 2:] * 0.9], dim=1)  # (C, 6)
        # a seed with its top bit set, and a step beyond 32 bits, of which the lower ones count
        self.counter = Counter(2**63 + 12345, 3, torch.tensor([2**32 + 9], device=device))

    def normal(self) -> Tensor:
        return torch.randn(self.chains, self.size, generator=self._generator).to(self.device, self.dtype)

    def positive(self, *shape: int) -> Tensor:
        return (0.3 + torch.rand(shape, generator=self._generator)).to(self.device, self.dtype)

    def prior(self, family: str, varies: Varies) -> tuple[Segment, ...]:
        number, shape = FAMILIES[family]
        scale = self.positive(self.size) if varies.scale else 0.7
        return (Segment(0, self.size, number, scale, shape, self.normal()[0] if varies.mean else None),)

    def masses(self) -> dict[str, Tensor | None]:
        return {
            "no mass": None,
            "one mass": self.positive(self.size),
            "masses of its own": self.positive(self.chains, self.size),
        }


class _Scope(NamedTuple):
    device: torch.device
    shapes: Sequence[tuple[int, int]]  # (C, D)
    priors: Mapping[str, Sequence[Varies]]  # families, and how each varies
    dtype: torch.dtype  # of buffers

    def inputs(self) -> Iterator[_Inputs]:
        for shape in self.shapes:
            yield _Inputs(self.device, *shape, self.dtype)

    def one_prior(self, inputs: _Inputs) -> tuple[Segment, ...]:
        family, ways = list(self.priors.items())[-1]
        return inputs.prior(family, ways[-1])

    def each_prior(self, inputs: _Inputs) -> Iterator[tuple[tuple[Segment, ...], tuple[str, str]]]:
        for family, ways in self.priors.items():
            for varies in ways:
                yield inputs.prior(family, varies), (family, str(varies))


_Case = tuple[str, Callable[[Any], tuple[Tensor, ...]], Callable[[Tensor], float]]
_Cases = Callable[[_Scope], Iterator[_Case]]


def _described(inputs: _Inputs, *words: str) -> str:
    return ", ".join((f"{inputs.chains} x {inputs.size}", *words))


# --- cases: description, what to run, what rounding may explain in each result ---


def _random(name: str, allowed: Callable[[Tensor], float]) -> _Cases:
    def cases(scope: _Scope) -> Iterator[_Case]:
        for inputs in scope.inputs():

            def run(operations: Any, inputs: _Inputs = inputs) -> tuple[Tensor, ...]:
                result = getattr(operations, name)(inputs.counter, inputs.chains, inputs.size)
                return result if isinstance(result, tuple) else (result,)

            yield _described(inputs), run, allowed

    return cases


def _update(name: str) -> _Cases:
    """Every shape with noise and each mass; every prior."""

    def cases(scope: _Scope) -> Iterator[_Case]:
        for inputs in scope.inputs():
            prior = scope.one_prior(inputs)
            yield _described(inputs), _updated(name, inputs, prior), _rounded
            for mass, inverse_mass in inputs.masses().items():
                options = {"inverse_mass": inverse_mass, "noise": inputs.counter, "fraction": 0.5}
                yield _described(inputs, "noise", mass), _updated(name, inputs, prior, **options), _rounded
        for prior, words in scope.each_prior(inputs):
            yield _described(inputs, *words), _updated(name, inputs, prior), _rounded

    return cases


def _updated(name: str, inputs: _Inputs, prior: Any, **options: Any) -> Callable[[Any], tuple[Tensor, ...]]:
    def run(operations: Any) -> tuple[Tensor, ...]:
        theta, momentum = inputs.theta.clone(), inputs.momentum.clone()
        moved = (theta, momentum) if name == "kick_drift" else (momentum,)
        rest = (inputs.grad,) if name == "kick_drift" else (inputs.grad, theta)
        getattr(operations, name)(*moved, *rest, prior, inputs.coefficients, **options)
        return theta, momentum

    return run


def _flow(scope: _Scope) -> Iterator[_Case]:
    """Every shape with each mass, with and without a gradient; every prior."""
    for inputs in scope.inputs():
        prior = scope.one_prior(inputs)
        for mass, inverse_mass in inputs.masses().items():
            yield _described(inputs, mass), _flowed(inputs, inputs.grad, prior, inverse_mass), _rounded
        yield _described(inputs, "no gradient"), _flowed(inputs, None, prior, None), _rounded
    for prior, words in scope.each_prior(inputs):
        yield _described(inputs, *words), _flowed(inputs, inputs.grad, prior, None), _rounded


def _flowed(
    inputs: _Inputs, grad: Tensor | None, prior: Any, inverse_mass: Tensor | None
) -> Callable[[Any], tuple[Tensor, ...]]:
    def run(operations: Any) -> tuple[Tensor, ...]:
        theta, momentum = inputs.theta.clone(), inputs.momentum.clone()
        operations.kick_flow(
            theta, momentum, grad, prior, inputs.flow, inverse_mass=inverse_mass, noise=inputs.counter
        )
        return theta, momentum

    return run


def _force(scope: _Scope) -> Iterator[_Case]:
    for inputs, prior, words in _priors(scope):

        def run(operations: Any, inputs: _Inputs = inputs, prior: Any = prior) -> tuple[Tensor, ...]:
            out = torch.full_like(inputs.grad, torch.nan)
            operations.force(out, inputs.grad, inputs.theta, prior, 1.7)
            return (out,)

        yield _described(inputs, *words), run, _rounded


def _priors(scope: _Scope) -> Iterator[tuple[_Inputs, Any, tuple[str, ...]]]:
    """One family at every shape; all of them at the last, alone and side by side."""
    for inputs in scope.inputs():
        yield inputs, scope.one_prior(inputs), ()
    for prior, words in scope.each_prior(inputs):
        yield inputs, prior, words
    if inputs.size > 2 * len(scope.priors):
        bounds = [*(7 * index // 3 for index in range(len(scope.priors))), inputs.size]
        parts = [
            Segment(start, stop, *_with_scale(family))
            for start, stop, family in zip(bounds[:-1], bounds[1:], scope.priors, strict=True)
        ]
        yield inputs, tuple(part for part in parts if part.stop > part.start), ("all families",)


def _with_scale(family: str) -> tuple[int, float, tuple[float, float]]:
    number, shape = FAMILIES[family]
    return number, 0.7, shape


def _kinetic(name: str) -> _Cases:
    def cases(scope: _Scope) -> Iterator[_Case]:
        for inputs in scope.inputs():
            for mass, inverse_mass in inputs.masses().items():

                def run(
                    operations: Any, inputs: _Inputs = inputs, inverse_mass: Tensor | None = inverse_mass
                ) -> tuple[Tensor, ...]:
                    if name == "kinetic_energy":
                        return (operations.kinetic_energy(inputs.momentum, inverse_mass=inverse_mass),)
                    momentum = torch.full_like(inputs.momentum, torch.nan)
                    kinetic = operations.refresh_momentum(momentum, inputs.counter, inverse_mass=inverse_mass)
                    return momentum, kinetic

                yield _described(inputs, mass), run, _summed if name == "kinetic_energy" else _rounded

    return cases


def _prior_sum(name: str) -> _Cases:
    def cases(scope: _Scope) -> Iterator[_Case]:
        for inputs, prior, words in _priors(scope):

            def run(operations: Any, inputs: _Inputs = inputs, prior: Any = prior) -> tuple[Tensor, ...]:
                if name == "log_prior":
                    return (operations.log_prior(inputs.theta, prior),)
                if name == "prior_difference":
                    return (operations.prior_difference(inputs.theta, inputs.grad, prior),)
                start, end = (inputs.theta, inputs.momentum), (inputs.grad, inputs.theta)
                mass = inputs.coefficients.new_full((inputs.size,), 0.7).to(inputs.dtype)
                return (operations.energy_difference(*start, *end, prior, 1.7, inverse_mass=mass),)

            yield _described(inputs, *words), run, _summed

    return cases


def _likelihoods(scope: _Scope) -> Iterator[_Case]:
    for inputs in scope.inputs():

        def run(operations: Any, inputs: _Inputs = inputs) -> tuple[Tensor, ...]:
            return (operations.likelihood_difference(inputs.theta, inputs.grad),)

        yield _described(inputs), run, _summed


def _metropolis(scope: _Scope) -> Iterator[_Case]:
    """A proposal per element, some of them not finite, some divergent."""
    for inputs in scope.inputs():
        energy_error = 3 * inputs.theta.flatten().double()
        unusual = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e4, -1e4], dtype=torch.float64)
        count = min(len(unusual), len(energy_error) - 1)
        energy_error[:count] = unusual[:count].to(inputs.device)
        for density_ratio in (False, True):
            for untested in (None, False, True):

                def run(
                    operations: Any,
                    energy_error: Tensor = energy_error,
                    inputs: _Inputs = inputs,
                    density_ratio: bool = density_ratio,
                    untested: bool | None = untested,
                ) -> tuple[Tensor, ...]:
                    uniform = torch.sigmoid(2 * inputs.grad.flatten())
                    flag = None if untested is None else torch.full((1,), untested, device=inputs.device)
                    accepted, accept_prob, divergent = operations.metropolis_test(
                        energy_error, uniform, 1000.0, density_ratio=density_ratio, untested=flag
                    )
                    return accepted, divergent, accept_prob

                words = "density ratio" if density_ratio else "log ratio", f"untested {untested}"
                yield _described(inputs, *words), run, _rounded


def _read_window(scope: _Scope) -> Iterator[_Case]:
    """A minibatch's indices, each chain's own; and a row of a table that all chains read."""
    for inputs in scope.inputs():
        own = torch.argsort(inputs.theta, dim=1).repeat(1, 2)
        table = inputs.momentum[:1].repeat(1, 4)
        length = max(1, inputs.size // 3)
        for name, window, period in (("own", own, inputs.size), ("shared", table, 4 * length)):

            def run(
                operations: Any,
                inputs: _Inputs = inputs,
                window: Tensor = window,
                period: int = period,
                length: int = length,
            ) -> tuple[Tensor, ...]:
                out = window.new_full((inputs.chains, length), -1)
                operations.read_window(window, inputs.counter.step, period, out)
                return (out,)

            yield _described(inputs, name), run, _same_bits


def _end_step(scope: _Scope) -> Iterator[_Case]:
    for inputs in scope.inputs():

        def run(operations: Any, inputs: _Inputs = inputs) -> tuple[Tensor, ...]:
            total, step = inputs.coefficients[:, 0].double(), inputs.counter.step.clone()
            operations.end_step(inputs.theta, total, step, 0.7)
            return total, step

        yield _described(inputs), run, _summed


def _select(scope: _Scope) -> Iterator[_Case]:
    for inputs in scope.inputs():

        def run(operations: Any, inputs: _Inputs = inputs) -> tuple[Tensor, ...]:
            target = inputs.theta.clone()
            mask = torch.arange(inputs.chains, device=inputs.device) % 2 == 0
            operations.select(target, inputs.grad, mask)
            return (target,)

        yield _described(inputs), run, _same_bits


def _store(scope: _Scope) -> Iterator[_Case]:
    """Values from 1e-9 to 1e9 of both signs: some overflow, some are subnormal."""
    for inputs in scope.inputs():
        for dtype in (torch.float16, torch.float32):

            def run(operations: Any, inputs: _Inputs = inputs, dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
                values = inputs.theta * torch.exp(7 * inputs.grad)
                slot = torch.zeros_like(values, dtype=dtype)
                counts = torch.tensor([3, 5], device=inputs.device)
                operations.store(slot, values, counts)
                return slot, counts

            yield _described(inputs, str(dtype).removeprefix("torch.")), run, _same_bits


def _softmax(scope: _Scope) -> Iterator[_Case]:
    for chains, rows, classes in ((1, 1, 2), (3, 31, 10), (2, 67, 1000)):
        inputs = _Inputs(scope.device, chains, rows * classes, scope.dtype)

        def run(
            operations: Any, inputs: _Inputs = inputs, shape: tuple[int, int, int] = (chains, rows, classes)
        ) -> tuple[Tensor, ...]:
            logits = 5 * inputs.theta.view(shape)
            sums, entropies = torch.ones_like(logits, dtype=torch.float64), logits.new_ones(shape[:2]).double()
            probabilities = torch.empty_like(logits)
            operations.accumulate_softmax(logits, sums, entropies, probabilities)
            return probabilities, sums, entropies

        yield f"{chains} x {rows} of {classes} classes", run, _rounded


_CASES: dict[str, _Cases] = {
    "philox": _random("philox", _same_bits),
    "uniforms": _random("uniforms", _same_bits),
    "normals": _random("normals", _rounded),
    "kick": _update("kick"),
    "kick_drift": _update("kick_drift"),
    "kick_flow": _flow,
    "force": _force,
    "refresh_momentum": _kinetic("refresh_momentum"),
    "kinetic_energy": _kinetic("kinetic_energy"),
    "log_prior": _prior_sum("log_prior"),
    "prior_difference": _prior_sum("prior_difference"),
    "energy_difference": _prior_sum("energy_difference"),
    "likelihood_difference": _likelihoods,
    "metropolis_test": _metropolis,
    "select": _select,
    "read_window": _read_window,
    "end_step": _end_step,
    "store": _store,
    "accumulate_softmax": _softmax,
}
