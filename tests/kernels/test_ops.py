"""Every Triton operation against its torch twin, which is the specification."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hmc_fast.kernels import launch, ops, prior, reduce
from hmc_fast.kernels.ops import Counter, Segment
from hmc_fast.kernels.self_check import FAMILIES, Varies

SIZES = (1, 31, 1023, 4097)
# Same formula, other roundings: a few units in the last place of the largest term (a mixture's gradient is
# the largest, near 10). The normals are float32 in every dtype, which bounds what float64 can agree to.
TOLERANCE: dict[torch.dtype, Any] = {
    torch.float32: {"rtol": 4e-6, "atol": 1e-5},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
}
SUM_TOLERANCE = 1e-12  # relative to the sum of the terms' magnitudes
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
WAYS = (Varies(False, False), Varies(True, False), Varies(True, True))
# On a GPU each family in one way: a kernel takes half a second to compile there (gpu_assurance/).
VARIES = dict.fromkeys(FAMILIES, WAYS[0]) | {"laplace": WAYS[2], "student_t": WAYS[1]}


def cases(names: str, *axes: Any, on_gpu: Callable[..., bool]) -> pytest.MarkDecorator:
    """All combinations; those that are not for a GPU run in the interpreter alone."""
    beyond = pytest.mark.interpreted
    combinations = [
        pytest.param(*values, marks=() if on_gpu(*values) else beyond) for values in itertools.product(*axes)
    ]
    return pytest.mark.parametrize(names, combinations)


class Case:
    """Random inputs of one shape, made on the CPU so that every device sees the same."""

    def __init__(self, device: str, chains: int, size: int, dtype: torch.dtype = torch.float32) -> None:
        self.device, self.chains, self.size, self.dtype = device, chains, size, dtype
        self.generator = torch.Generator().manual_seed(chains * 10_000 + size)
        self.theta, self.momentum, self.grad = self.normal(), self.normal(), self.normal()
        spread = 1 + torch.rand(chains, 4, generator=self.generator)
        self.coefficients = (torch.tensor([0.1, 0.7, 0.8, 0.3]) * spread).to(device, dtype)
        self.flow = torch.cat([self.coefficients, self.coefficients[:, 2:] * 0.9], dim=1)  # (C, 6)
        step = torch.tensor([9], device=device)
        self.noise = Counter(2**63 + 12345, 3, step)

    def normal(self, *shape: int) -> Tensor:
        shape = shape or (self.chains, self.size)
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)

    def positive(self, *shape: int) -> Tensor:
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (0.3 + uniform).to(self.device, self.dtype)

    def mass(self, kind: str) -> Tensor | None:
        if kind == "none":
            return None
        return self.positive(self.size) if kind == "shared" else self.positive(self.chains, self.size)

    def prior(self, name: str, vector: bool = False, mean: bool = False) -> tuple[Segment, ...]:
        family, shape = FAMILIES[name]
        scale, middle = self.positive(self.size) if vector else 0.7, self.normal(self.size) if mean else None
        return (Segment(0, self.size, family, scale, shape, middle),)

    def two_segments(self, split: int) -> tuple[Segment, ...]:
        """Normal below `split`, a mixture with a scale of each element above."""
        mixture, shares = FAMILIES["mixture"]
        below = Segment(0, split, ops.NORMAL, 0.7)
        return below, Segment(split, self.size, mixture, self.positive(self.size), shares)

    def mixed_prior(self) -> tuple[Segment, ...]:
        """All families in turn, at bounds that no block and no group of four is aligned to."""
        bounds = [0, 1, 6, 131, 134, 777, self.size]
        scale = self.positive(self.size)
        return tuple(
            Segment(lo, hi, family, scale if i % 2 else 0.7, shape, scale if i % 3 else None)
            for i, (lo, hi, (family, shape)) in enumerate(
                zip(bounds[:-1], bounds[1:], FAMILIES.values(), strict=True)
            )
        )


def both(call: Callable[[str], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return call("triton"), call("torch")


def update(case: Case, op: str, segments: Any, impl: str | None, **options: Any) -> tuple[Tensor, Tensor]:
    """One `kick` or `kick_drift` on copies: the new momentum and theta."""
    momentum, theta = case.momentum.clone(), case.theta.clone()
    if op == "kick":
        ops.kick(momentum, case.grad, theta, segments, case.coefficients, impl=impl, **options)
    else:
        ops.kick_drift(theta, momentum, case.grad, segments, case.coefficients, impl=impl, **options)
    return momentum, theta


def assert_update(case: Case, op: str, segments: Any, **options: Any) -> None:
    got, expected = both(lambda impl: update(case, op, segments, impl, **options))
    noisy = options.get("noise") is not None
    tolerance = TOLERANCE[torch.float32 if noisy else case.dtype]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    moved = not torch.equal(got[1], case.theta)
    assert moved == (op == "kick_drift")


def assert_sums(got: Tensor, expected: Tensor, magnitude: Tensor | float = 0.0) -> None:
    assert got.dtype == expected.dtype == torch.float64
    bound = SUM_TOLERANCE * (expected.abs() + magnitude)
    assert bool(((got - expected).abs() <= bound).all()), (got, expected)


# --- updates ---------------------------------------------------------------------------------------------


@cases(
    "size, chains, mass, noise",
    SIZES,
    [1, 3],
    ["none", "shared", "own"],
    [False, True],
    on_gpu=lambda size, chains, mass, noise: size > 1 or (mass == "own" and noise),
)
def test_kick_drift_shapes(device: str, size: int, chains: int, mass: str, noise: bool) -> None:
    case = Case(device, chains, size)
    options = {"inverse_mass": case.mass(mass), "noise": case.noise if noise else None, "fraction": 0.5}
    assert_update(case, "kick_drift", case.prior("normal"), **options)


@DTYPES
@cases(
    "op, family, varies",
    ["kick", "kick_drift"],
    FAMILIES,
    WAYS,
    on_gpu=lambda op, family, varies: op == "kick_drift" and varies == VARIES[family],
)
def test_update_with_every_prior(device: str, op: str, family: str, varies: Varies, dtype: torch.dtype) -> None:
    case = Case(device, 3, 1023, dtype)
    assert_update(case, op, case.prior(family, *varies))


@pytest.mark.interpreted
@DTYPES
@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noise"])
@pytest.mark.parametrize("op", ["kick", "kick_drift"])
def test_update_with_several_segments(device: str, op: str, noise: bool, dtype: torch.dtype) -> None:
    case = Case(device, 3, 1023, dtype)
    options = {"noise": case.noise if noise else None, "inverse_mass": case.mass("shared")}
    assert_update(case, op, case.mixed_prior(), **options)
    assert_update(case, op, case.mixed_prior()[::-1], **options)


@pytest.mark.parametrize("split", [6, 1021])
def test_update_with_two_segments(device: str, split: int) -> None:
    """Bounds that no block and no group of four is aligned to, with noise."""
    case = Case(device, 3, 1023)
    assert_update(case, "kick_drift", case.two_segments(split), noise=case.noise, inverse_mass=case.mass("shared"))


def flow(case: Case, segments: Any, impl: str, *, kicked: bool = True, **options: Any) -> tuple[Tensor, Tensor]:
    """One `kick_flow` on copies: the new momentum and theta."""
    momentum, theta = case.momentum.clone(), case.theta.clone()
    grad = case.grad if kicked else None
    ops.kick_flow(theta, momentum, grad, segments, case.flow, noise=case.noise, impl=impl, **options)
    return momentum, theta


@cases(
    "size, chains, mass, kicked",
    SIZES[1:],
    [3],
    ["none", "shared", "own"],
    [True, False],
    on_gpu=lambda size, chains, mass, kicked: kicked == (mass != "shared"),
)
def test_kick_flow_shapes(device: str, size: int, chains: int, mass: str, kicked: bool) -> None:
    case = Case(device, chains, size)
    options = {"inverse_mass": case.mass(mass), "kicked": kicked}
    prior = case.prior("normal")
    got, expected = both(lambda impl: flow(case, prior, impl, **options))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])


@DTYPES
@cases("name", [*FAMILIES, "all"], on_gpu=lambda name: name == "mixture")
def test_kick_flow_with_every_prior(device: str, name: str, dtype: torch.dtype) -> None:
    case = Case(device, 3, 1023, dtype)
    segments = case.mixed_prior() if name == "all" else case.prior(name, *VARIES[name])
    mass = case.mass("own")
    got, expected = both(lambda impl: flow(case, segments, impl, inverse_mass=mass))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_columns_of_the_flow_by_hand(device: str, impl: str) -> None:
    """theta drifts with the momentum between kick and decay; one noise moves both, one the momentum."""
    case = Case(device, 2, 5, torch.float64)
    kick, drift, decay, own, shared, spread = case.flow.T[:, :, None]
    mass = case.mass("own")
    assert mass is not None
    second = Counter(case.noise.seed, case.noise.stream + 1, case.noise.step)
    xi1, xi2 = (ops.normals(counter, 2, 5, impl="torch").double() for counter in (case.noise, second))
    kicked = case.momentum + kick * case.grad
    momentum, theta = flow(case, case.prior("flat"), impl, inverse_mass=mass)
    torch.testing.assert_close(
        theta, case.theta + drift * mass * kicked + spread * mass.sqrt() * xi1, **TOLERANCE[torch.float32]
    )
    expected = decay * kicked + (shared * xi1 + own * xi2) / mass.sqrt()
    torch.testing.assert_close(momentum, expected, **TOLERANCE[torch.float32])


@DTYPES
@cases("name", ["flat", "student_t", "mixture", "all"], on_gpu=lambda name: name == "mixture")
def test_force(device: str, name: str, dtype: torch.dtype) -> None:
    """What is written does not depend on what was there."""
    case = Case(device, 3, 1023, dtype)
    segments = case.mixed_prior() if name == "all" else case.prior(name, *VARIES[name])
    got, expected = torch.full_like(case.theta, torch.nan), torch.full_like(case.theta, torch.nan)
    ops.force(got, case.grad, case.theta, segments, 0.25, impl="triton")
    ops.force(expected, case.grad, case.theta, segments, 0.25, impl="torch")
    torch.testing.assert_close(got, expected, **TOLERANCE[dtype])
    by_hand = case.grad.double().clone()
    for s in segments:
        by_hand[:, s.start : s.stop] += prior.grad(case.theta[:, s.start : s.stop].double(), s)
    torch.testing.assert_close(got.double(), by_hand / 4, **TOLERANCE[dtype])


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_columns_by_hand(device: str, impl: str) -> None:
    """DECAY keeps, KICK pushes, NOISE shakes, DRIFT moves; without a counter neither decay nor noise."""
    case = Case(device, 2, 5, torch.float64)
    kick, drift, decay, noise = case.coefficients.T[:, :, None]
    segments, mass = case.prior("flat"), case.mass("own")
    assert mass is not None
    xi = ops.normals(case.noise, 2, 5, impl="torch").double()
    for counter, kept, shaken in ((None, 1.0, 0.0), (case.noise, decay, noise)):
        momentum, theta = update(case, "kick_drift", segments, impl, fraction=0.5, inverse_mass=mass, noise=counter)
        expected = kept * case.momentum + 0.5 * kick * case.grad + shaken * xi / mass.sqrt()
        torch.testing.assert_close(momentum, expected, **TOLERANCE[torch.float32])
        torch.testing.assert_close(theta, case.theta + drift * mass * expected, **TOLERANCE[torch.float32])


def test_kick_climbs_and_drift_follows_the_momentum(device: str) -> None:
    """The signs by hand: a twin that is wrong in the same way would not be seen above."""
    theta = torch.tensor([[2.0, -2.0, 0.0, 0.0]], device=device)
    momentum, grad = torch.zeros_like(theta), torch.tensor([[0.0, 0.0, 3.0, -3.0]], device=device)
    coefficients = torch.tensor([[0.5, 0.5, 0.0, 0.0]], device=device)
    segments = (Segment(0, 4, ops.NORMAL, 2.0),)
    ops.kick_drift(theta, momentum, grad, segments, coefficients, impl="triton")
    torch.testing.assert_close(momentum.cpu(), torch.tensor([[-0.25, 0.25, 1.5, -1.5]]))
    torch.testing.assert_close(theta.cpu(), torch.tensor([[1.875, -1.875, 0.75, -0.75]]))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "flat"])
@DTYPES
def test_prior_gradient_is_that_of_its_density(device: str, family: str, dtype: torch.dtype) -> None:
    """Over twelve decades of |x|, against autograd of the float64 density."""
    x = torch.logspace(-8, 4, 97, dtype=torch.float64)
    x = torch.cat([-x.flip(0), torch.zeros(1, dtype=torch.float64), x])
    case = Case(device, 1, len(x), dtype)
    case.theta = x.to(device, dtype)[None].contiguous()
    case.momentum, case.grad = torch.zeros_like(case.theta), torch.zeros_like(case.theta)
    case.coefficients = torch.tensor([[1.0, 1.0, 0.0, 0.0]], device=device, dtype=dtype)
    segments = case.prior(family, *VARIES[family])
    if segments[0].mean is not None:
        segments[0].mean.zero_()
    exact = case.theta.double().cpu().requires_grad_()
    (expected,) = torch.autograd.grad(prior.log_density(exact, segments[0]).sum(), exact)
    if family == "laplace":
        expected[exact == 0] = 0
    got, _ = update(case, "kick_drift", segments, "triton")
    rtol = 4e-6 if dtype == torch.float32 else 1e-11
    if family == "mixture" and dtype == torch.float32:
        rtol = 1e-4  # where the components cross, the logit's rounding is that of a number near 100
    # atol: autograd's own rounding, where a gradient is a difference of numbers near 1
    torch.testing.assert_close(got.cpu().double(), expected, rtol=rtol, atol=1e-15)


@DTYPES
@cases("size, chains, mass", SIZES, [1, 3], ["none", "shared", "own"], on_gpu=lambda size, chains, mass: size > 1)
def test_refresh_momentum(device: str, size: int, chains: int, mass: str, dtype: torch.dtype) -> None:
    case = Case(device, chains, size, dtype)
    inverse_mass = case.mass(mass)
    got, expected = torch.empty_like(case.theta), torch.empty_like(case.theta)
    energy = ops.refresh_momentum(got, case.noise, inverse_mass=inverse_mass, impl="triton")
    ops.refresh_momentum(expected, case.noise, inverse_mass=inverse_mass, impl="torch")
    torch.testing.assert_close(got, expected, **TOLERANCE[torch.float32])
    assert_sums(energy, ops.kinetic_energy(got, inverse_mass=inverse_mass, impl="torch"))


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_random_words_and_uniforms_are_equal_to_the_bit(device: str, size: int, chains: int) -> None:
    counter = Case(device, 1, 1).noise
    for got, expected in zip(*both(lambda impl: ops.philox(counter, chains, size, impl=impl)), strict=True):
        assert torch.equal(got, expected)
    got, expected = (ops.uniforms(counter, chains, size, impl=impl) for impl in ("triton", "torch"))
    assert torch.equal(got, expected)


# --- what a value may not depend on ----------------------------------------------------------------------


def test_values_do_not_depend_on_the_block_size(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(device, 2, 1501)
    normal, mixture, mass = case.prior("normal"), case.prior("mixture"), case.mass("own")
    results = []
    for block in (launch.BLOCK, 128):
        monkeypatch.setattr(launch, "BLOCK", block)
        monkeypatch.setattr(reduce, "BLOCK", block)
        momentum, theta = update(case, "kick_drift", normal, "triton", noise=case.noise, inverse_mass=mass)
        start, end = (case.theta, case.momentum), (theta, momentum)
        energy = ops.energy_difference(*start, *end, mixture, 0.7, inverse_mass=mass, impl="triton")
        results.append((momentum, theta, energy))
    for momentum, theta, energy in results[1:]:
        assert torch.equal(momentum, results[0][0])
        assert torch.equal(theta, results[0][1])
        assert_sums(energy, results[0][2])


def test_values_do_not_depend_on_the_other_chains_or_parameters(device: str) -> None:
    whole = Case(device, 5, 1023)
    part = Case(device, 3, 301)
    for name in ("theta", "momentum", "grad"):
        setattr(part, name, getattr(whole, name)[:3, :301].contiguous())
    part.coefficients, mass = whole.coefficients[:3].contiguous(), whole.mass("own")
    assert mass is not None
    all_of_it = update(whole, "kick_drift", whole.prior("normal"), "triton", noise=whole.noise, inverse_mass=mass)
    mass = mass[:3, :301].contiguous()
    some = update(part, "kick_drift", part.prior("normal"), "triton", noise=part.noise, inverse_mass=mass)
    for a, b in zip(all_of_it, some, strict=True):
        assert torch.equal(a[:3, :301], b)


def test_the_step_is_read_from_its_tensor(device: str) -> None:
    case = Case(device, 1, 64)
    first = ops.normals(case.noise, 1, 63, impl="triton")
    case.noise.step.add_(1)
    second = ops.normals(case.noise, 1, 63, impl="triton")
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, ops.normals(case.noise, 1, 63, impl="torch"), rtol=2e-6, atol=2e-6)


def test_sums_are_the_same_each_time(device: str) -> None:
    case = Case(device, 3, 4097)
    first = ops.log_prior(case.theta, case.prior("mixture"), impl="triton")
    again = Case(device, 3, 4097)
    assert torch.equal(first, ops.log_prior(again.theta, again.prior("mixture"), impl="triton"))


@pytest.mark.parametrize("partials", [1, 2047, 2048, 2049, 5000])
def test_second_stage_of_a_sum(device: str, partials: int) -> None:
    terms = torch.arange(3 * partials, dtype=torch.float64, device=device).view(3, partials)
    assert torch.equal(reduce.finish(terms), terms.sum(1))


# --- sums ------------------------------------------------------------------------------------------------


@DTYPES
@cases("size, chains", SIZES, [1, 3], on_gpu=lambda size, chains: size > 1)
def test_kinetic_energy(device: str, size: int, chains: int, dtype: torch.dtype) -> None:
    case = Case(device, chains, size, dtype)
    for kind in ("none", "shared", "own"):
        mass = case.mass(kind)
        got, expected = both(lambda i, m=mass: (ops.kinetic_energy(case.momentum, inverse_mass=m, impl=i),))  # type: ignore[misc]
        assert_sums(got[0], expected[0])


@DTYPES
@cases("family, varies", FAMILIES, WAYS, on_gpu=lambda family, varies: varies == VARIES[family])
def test_log_prior_of_every_family(device: str, family: str, varies: Varies, dtype: torch.dtype) -> None:
    case = Case(device, 3, 1023, dtype)
    assert_log_prior(case, case.prior(family, *varies))


@DTYPES
@cases("family, varies", FAMILIES, WAYS, on_gpu=lambda family, varies: family == "mixture" and not varies.scale)
def test_differences_with_every_prior(device: str, family: str, varies: Varies, dtype: torch.dtype) -> None:
    case = Case(device, 3, 1023, dtype)
    assert_differences(case, case.prior(family, *varies))


@cases("size, chains", SIZES, [1, 3], on_gpu=lambda size, chains: size > 1)
def test_energies_of_every_size(device: str, size: int, chains: int) -> None:
    case = Case(device, chains, size)
    assert_log_prior(case, case.prior("mixture"))
    assert_differences(case, case.prior("mixture"))


@pytest.mark.interpreted
def test_energies_with_several_segments(device: str) -> None:
    case = Case(device, 3, 1023)
    for segments in (case.mixed_prior(), case.mixed_prior()[::-1]):
        assert_log_prior(case, segments)
        assert_differences(case, segments)


def test_energies_with_two_segments(device: str) -> None:
    case = Case(device, 3, 1023)
    assert_log_prior(case, case.two_segments(6))


def assert_log_prior(case: Case, segments: tuple[Segment, ...]) -> None:
    got, expected = both(lambda impl: (ops.log_prior(case.theta, segments, impl=impl),))
    assert_sums(got[0], expected[0], magnitude=case.size)


def assert_differences(case: Case, segments: tuple[Segment, ...]) -> None:
    new_theta, new_momentum, mass = case.normal(), case.normal(), case.mass("own")
    start, end = (case.theta, case.momentum), (new_theta, new_momentum)
    got, expected = both(
        lambda impl: (ops.energy_difference(*start, *end, segments, 0.7, inverse_mass=mass, impl=impl),)
    )
    assert_sums(got[0], expected[0], magnitude=case.size)
    got, expected = both(lambda impl: (ops.prior_difference(case.theta, new_theta, segments, impl=impl),))
    assert_sums(got[0], expected[0], magnitude=case.size)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_prior_far_out_and_at_zero(device: str, family: str) -> None:
    """No overflow and no cancellation, where a naive exp or 1 + x would have one."""
    x = torch.tensor([[0.0, 1e-12, -1e-6, 1e-3, 1.0, -30.0, 1e3, 1e6, -1e15, 1e-30]], device=device)
    x = x.T.expand(-1, 1023).contiguous()  # a chain for each
    segments = (Segment(0, 1023, *_family(family)),)
    if VARIES[family].scale:
        segments = (dataclasses.replace(segments[0], scale=torch.full_like(x[0], 0.7)),)
    if VARIES[family].mean:
        segments = (dataclasses.replace(segments[0], mean=torch.zeros_like(x[0])),)
    expected = ops.log_prior(x, segments, impl="torch")
    assert_sums(ops.log_prior(x, segments, impl="triton"), expected)


def _family(name: str) -> tuple[int, float, tuple[float, float]]:
    return FAMILIES[name][0], 0.7, FAMILIES[name][1]


def test_energy_difference_of_large_energies(device: str) -> None:
    """A difference of 1e-3 between kinetic energies of 1e9: their float32 spacing is 64."""
    momentum = torch.full((1, 4097), 700.0, device=device)
    new = momentum.clone()
    new[0, 17] = torch.nextafter(new[0, 17], new[0, 17] + 1)
    zero = torch.zeros_like(momentum)
    segments, mass = (Segment(0, 4097, *_family("mixture")),), torch.ones_like(momentum)
    got = ops.energy_difference(zero, momentum, zero, new, segments, 1.0, inverse_mass=mass, impl="triton")
    after, before = float(new[0, 17]), 700.0
    assert_sums(got.cpu(), torch.tensor([(after - before) * (after + before) / 2], dtype=torch.float64))


# --- a chain's numbers and a minibatch step's ---------------------------------------------------------


@cases("size, dtype", SIZES, [torch.float32, torch.float64], on_gpu=lambda size, dtype: size > 1)
def test_likelihood_difference(device: str, size: int, dtype: torch.dtype) -> None:
    case = Case(device, 3, size, dtype)
    got, expected = both(lambda impl: (ops.likelihood_difference(case.theta, case.grad, impl=impl),))
    assert_sums(got[0], expected[0], magnitude=size)


@pytest.mark.parametrize("untested", [None, False, True])
@pytest.mark.parametrize("density_ratio", [False, True])
@pytest.mark.parametrize("chains", [1, 127, 129])
def test_metropolis_test(device: str, chains: int, density_ratio: bool, untested: bool | None) -> None:
    case = Case(device, 1, chains)
    energy_error, uniform = 3 * case.normal(chains).double(), torch.sigmoid(case.normal(chains))
    for number, unusual in enumerate((math.nan, math.inf, -math.inf, 1e4, -1e4, 0.0)):
        energy_error[number * chains // 6] = unusual
    flag = None if untested is None else torch.tensor([untested], device=device)
    options = {"density_ratio": density_ratio, "untested": flag}
    got, expected = both(lambda impl: ops.metropolis_test(energy_error, uniform, 1000.0, impl=impl, **options))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


@pytest.mark.parametrize("length", [1, 31, 2049])
def test_read_window(device: str, length: int) -> None:
    """Minibatches of 4,097 examples in two epochs, and the rows of a table for all chains."""
    own = torch.arange(3 * 2 * 4097, device=device).view(3, -1)
    shared = torch.linspace(0, 1, 5 * length, device=device).view(1, -1)
    for step in (0, 3, 2**33 + 1):
        for window, period in ((own, 4097), (shared, 5 * length)):
            out, expected = (torch.zeros(3, length, dtype=window.dtype, device=device) for _ in range(2))
            counter = torch.tensor([step], device=device)
            ops.read_window(window, counter, period, out, impl="triton")
            ops.read_window(window, counter, period, expected, impl="torch")
            assert torch.equal(out, expected)
            begin = step * length % period
            for chain, row in enumerate(out):
                assert torch.equal(row, window[chain % len(window), begin : begin + length])


@pytest.mark.parametrize("size", SIZES)
def test_end_step(device: str, size: int) -> None:
    case = Case(device, 3, 2 * size)
    part = case.theta[:, :size]  # rows apart: a batch shorter than the buffer
    results = []
    for impl in ("triton", "torch"):
        total, step = torch.arange(3.0, dtype=torch.float64, device=device), torch.tensor([2**40], device=device)
        ops.end_step(part, total, step, 0.7, impl=impl)
        assert step.tolist() == [2**40 + 1]
        results.append(total)
    assert_sums(*results, magnitude=size)
    assert_sums(results[0], torch.arange(3.0, device=device) + 0.7 * part.double().sum(1), magnitude=size)


# --- copies ----------------------------------------------------------------------------------------------


@cases("width, dtype", SIZES, [torch.float32, torch.float64, torch.int64], on_gpu=lambda width, dtype: width > 1)
def test_select(device: str, width: int, dtype: torch.dtype) -> None:
    target = torch.arange(3 * width, device=device).view(3, width).to(dtype)
    source = -target - 1
    if dtype.is_floating_point:
        source[0, 0], source[1, 0], target[2, -1] = math.nan, math.inf, math.nan
    for mask in ([False, False, False], [False, True, False], [True, False, True], [True, True, True]):
        chosen = torch.tensor(mask, device=device)
        got, expected = target.clone(), target.clone()
        ops.select(got, source, chosen, impl="triton")
        ops.select(expected, source, chosen, impl="torch")
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
        for chain, accepted in enumerate(mask):
            kept = source[chain] if accepted else target[chain]
            torch.testing.assert_close(got[chain], kept, rtol=0, atol=0, equal_nan=True)


@DTYPES
@cases(
    "size, slot_dtype",
    SIZES,
    [torch.float16, torch.bfloat16, torch.float32],
    on_gpu=lambda size, slot_dtype: size > 1,
)
def test_store(device: str, size: int, slot_dtype: torch.dtype, dtype: torch.dtype) -> None:
    case = Case(device, 3, size, dtype)
    info = torch.finfo(slot_dtype)
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, info.max, -info.max, info.tiny, -info.tiny / 2]
    special += [info.tiny / 4, 1e-30, 65504.0, 65519.0, 65520.0, -1e5, 3.4e38, -1e-45]
    values = torch.tensor(special, dtype=torch.float64).to(device, dtype)
    count = min(size, len(special))
    case.theta[:, :count] = values[:count]
    results = []
    for impl in ("triton", "torch"):
        slot = torch.full((3, size), 7.0, dtype=slot_dtype, device=device)
        counts = torch.tensor([100, 200], device=device)
        ops.store(slot, case.theta, counts, impl=impl)
        results.append((slot, counts))
    (got, got_counts), (expected, expected_counts) = results
    assert got_counts.tolist() == expected_counts.tolist()
    # The interpreter's cast to bfloat16 truncates where devices and torch round, and loses subnormals.
    loose = slot_dtype == torch.bfloat16 and device == "cpu"
    rtol, atol = (2.0**-7, info.tiny) if loose else (0.0, 0.0)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    assert bool((got.isfinite() | case.theta.isnan()).all())


def test_store_counts_by_hand(device: str) -> None:
    theta = torch.tensor([[1e5, -1e6, math.inf, math.nan, 0.0, 1e-5, -1e-9, 1.0]], device=device)
    slot, counts = torch.empty(1, 8, dtype=torch.float16, device=device), torch.zeros(2, device=device).long()
    ops.store(slot, theta, counts, impl="triton")
    assert counts.tolist() == [2, 2]
    assert slot[0, :3].tolist() == [65504.0, -65504.0, 65504.0]
    assert math.isnan(slot[0, 3])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, from inside the interpreter
@cases("op", ["kick", "kick_drift"], on_gpu=lambda op: op == "kick_drift")
def test_nan_and_inf_spread_to_their_own_element_only(device: str, op: str) -> None:
    case = Case(device, 2, 301)
    case.grad[0, 5], case.theta[1, 7], case.momentum[1, 9] = math.nan, math.inf, math.nan
    got, expected = both(lambda impl: update(case, op, case.prior("normal"), impl))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **TOLERANCE[torch.float32])
        assert int((~a.isfinite()).sum()) <= 3


# --- what is refused -------------------------------------------------------------------------------------


def _bad_calls() -> dict[str, tuple[str, Callable[[Case], object]]]:
    def call(case: Case, **changed: Any) -> None:
        arguments: dict[str, Any] = {
            "theta": case.theta,
            "momentum": case.momentum,
            "grad": case.grad,
            "prior": case.prior("normal"),
            "coefficients": case.coefficients,
        } | changed
        ops.kick_drift(**arguments, impl="triton")

    def spans(case: Case, *bounds: tuple[int, int]) -> None:
        call(case, prior=[Segment(lo, hi, ops.NORMAL) for lo, hi in bounds])

    def metropolis(case: Case, **changed: Any) -> None:
        given = {"energy_error": case.theta[:, 0].double(), "uniform": case.theta[:, 0].contiguous()} | changed
        ops.metropolis_test(**given, divergence_threshold=1.0, impl="triton")

    def window(case: Case, **changed: Any) -> None:
        given = {"window": case.theta, "step": case.noise.step, "period": 32, "out": case.grad[:, :1].contiguous()}
        ops.read_window(**given | changed, impl="triton")

    def counted(case: Case, **changed: Any) -> None:
        values = {"seed": 1, "stream": 0, "step": case.noise.step} | changed
        call(case, noise=Counter(**values))

    return {
        "shape": ("grad must be", lambda c: call(c, grad=c.grad[:, :-1].contiguous())),
        "rank": ("shape", lambda c: call(c, momentum=c.momentum[0])),
        "stride": ("contiguous", lambda c: call(c, grad=c.grad.T.contiguous().T)),
        "dtype": ("dtype", lambda c: call(c, grad=c.grad.double())),
        "half": ("float32 or float64", lambda c: ops.kinetic_energy(c.theta.half(), impl="triton")),
        "device": ("is on meta", lambda c: call(c, grad=c.grad.to("meta"))),
        "coefficients": ("coefficients", lambda c: call(c, coefficients=c.coefficients[:, :3].contiguous())),
        "mass": ("inverse_mass", lambda c: call(c, inverse_mass=torch.ones(5, device=c.device))),
        "no prior": ("cover", lambda c: spans(c)),
        "gap": ("cover", lambda c: spans(c, (0, 10), (11, 32))),
        "overlap": ("cover", lambda c: spans(c, (0, 10), (9, 32))),
        "short": ("cover", lambda c: spans(c, (0, 31))),
        "long": ("cover", lambda c: spans(c, (0, 33))),
        "family": ("family", lambda c: call(c, prior=[Segment(0, 32, 99)])),
        "scale": ("scale", lambda c: call(c, prior=[Segment(0, 32, ops.NORMAL, c.positive(31))])),
        "mean": ("mean", lambda c: call(c, prior=[Segment(0, 32, ops.NORMAL, mean=c.normal(31))])),
        "step": ("step", lambda c: counted(c, step=torch.zeros(2, device=c.device).long())),
        "seed": ("seed", lambda c: counted(c, seed=2**64)),
        "stream": ("stream", lambda c: counted(c, stream=-1)),
        "uniform": ("uniform", lambda c: metropolis(c, uniform=c.theta[:1, 0])),
        "energies": ("float64", lambda c: metropolis(c, energy_error=c.theta[:, 0].contiguous())),
        "window": ("serve", lambda c: window(c, period=33)),
        "window dtype": ("serve", lambda c: window(c, window=c.theta.double())),
        "window rows": ("window must be", lambda c: window(c, window=c.theta[:, :8])),
        "total": (
            "total must be",
            lambda c: ops.end_step(c.theta, c.theta[:, 0], c.noise.step, 1.0, impl="triton"),
        ),
        "rows of log_lik": (
            "rows of log_lik",
            lambda c: ops.end_step(c.theta[:, ::2], c.theta[:, 0].double(), c.noise.step, 1.0, impl="triton"),
        ),
        "mask": ("mask", lambda c: ops.select(c.theta, c.grad, c.coefficients[:, 0], impl="triton")),
        "counts": ("counts", lambda c: ops.store(c.theta.half(), c.theta, c.noise.step, impl="triton")),
        "slot": ("slot", lambda c: ops.store(c.theta.int(), c.theta, c.noise.step, impl="triton")),
        "impl": ("unknown", lambda c: ops.kinetic_energy(c.theta, impl="cuda")),
    }


@pytest.mark.parametrize("name", _bad_calls())
def test_bad_arguments_are_refused(device: str, name: str) -> None:
    message, call = _bad_calls()[name]
    with pytest.raises(ValueError, match=message):
        call(Case(device, 2, 32))


def test_triton_on_the_cpu_needs_its_interpreter() -> None:
    """A named choice is obeyed or raises; importing the operations does not import triton."""
    code = """
import sys, torch
from hmc_fast.kernels import ops
assert "triton" not in sys.modules, "imported by ops"
assert ops.kinetic_energy(torch.ones(1, 4)).item() == 2
assert "triton" not in sys.modules, "imported by a call on the CPU"
try:
    ops.kinetic_energy(torch.ones(1, 4), impl="triton")
except ValueError as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "TRITON_INTERPRET=1" in done.stdout


# --- on a GPU only ---------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*ynchronization debug mode:UserWarning")
def test_every_operation_can_be_captured() -> None:
    """Captured once and replayed, with the step counter advancing, each gives what eager twins give."""
    case = Case("cuda", 3, 4097)
    case.coefficients *= 0.1  # short steps: where a mixture's components cross, long ones magnify rounding
    segments, mass = case.prior("mixture"), case.mass("shared")
    slot = torch.empty(3, 4097, dtype=torch.float16, device="cuda")
    counts, mask = torch.zeros(2, dtype=torch.int64, device="cuda"), torch.tensor([True, False, True]).cuda()
    proposal, force = case.theta.clone(), torch.empty_like(case.theta)

    def trajectory(impl: str) -> Tensor:
        energy = ops.refresh_momentum(case.momentum, case.noise, inverse_mass=mass, impl=impl)
        start = case.momentum.clone()
        proposal.copy_(case.theta)
        ops.kick_drift(
            proposal, case.momentum, case.grad, segments, case.coefficients, inverse_mass=mass, impl=impl
        )
        ops.kick(case.momentum, case.grad, proposal, segments, case.coefficients, noise=case.noise, impl=impl)
        change = ops.energy_difference(
            case.theta, start, proposal, case.momentum, segments, 0.7, inverse_mass=mass, impl=impl
        )
        change += ops.prior_difference(case.theta, proposal, segments, impl=impl)
        ops.force(force, case.grad, proposal, segments, 0.7, impl=impl)
        change += force.double().sum(1)
        ops.select(case.theta, proposal, mask, impl=impl)
        ops.store(slot, case.theta, counts, impl=impl)
        case.noise.step.add_(1)
        return energy + change + ops.log_prior(case.theta, segments, impl=impl)

    begin, step = case.theta.clone(), case.noise.step.clone()
    expected = [trajectory("torch") for _ in range(4)]
    theta = case.theta.clone()
    case.theta.copy_(begin)
    case.noise.step.copy_(step)
    got = [trajectory("triton")]  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = trajectory("triton")
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            graph.replay()
            got.append(captured.clone())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(torch.stack(got), torch.stack(expected), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(case.theta, theta, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_offsets_between_chains_exceed_32_bits() -> None:
    """11 GB: the last chain begins past 2^31 elements."""
    if torch.cuda.get_device_properties(0).total_memory < 20e9:
        pytest.skip("needs 20 GB of device memory")
    chains, size = 5, 550_000_000
    momentum = torch.empty(chains, size, device="cuda")
    counter = Counter(1, 2, torch.zeros(1, dtype=torch.int64, device="cuda"))
    energy = ops.refresh_momentum(momentum, counter)
    few = ops.normals(counter, chains, 64, impl="torch")
    torch.testing.assert_close(momentum[:, :64], few, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(energy, torch.full_like(energy, size / 2), rtol=1e-3, atol=0)
