"""Machine code does what torch does: every operation that has a translation, at awkward sizes; loops; fusion."""

import math
import shutil
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from cases import SAMPLERS, some_slow
from hmc_fast.compute import native
from hmc_fast.compute.native import NativeProgram, library, native_program, operations, products
from hmc_fast.compute.native.decompositions import decompose
from hmc_fast.compute.program import Program
from hmc_fast.compute.recording import Repeats, record, repeat
from targets import linear_regression

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")

INF, NAN = math.inf, math.nan
SPECIAL_VALUES = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-30, -1e30, 90.0, -90.0, INF, -INF, NAN]


def compiled(function):
    """Raises, where `native_program` would return None."""
    return NativeProgram(record(function, decompose=decompose, every_loop=True))


def same(function, *, rtol=None):
    """What `function` returns, to rounding, in both."""
    found, expected = compiled(function)(), function()
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        tolerance = {} if rtol is None else {"rtol": rtol, "atol": rtol}
        torch.testing.assert_close(one, other.contiguous(), equal_nan=True, **tolerance)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


UNARY = [
    *(torch.neg, torch.abs, torch.sign, torch.reciprocal, torch.square, torch.sqrt, torch.rsqrt, torch.exp),
    *(torch.expm1, torch.log, torch.log1p, torch.log2, torch.sin, torch.cos, torch.tan, torch.atan, torch.tanh),
    *(torch.erf, torch.floor, torch.ceil, torch.sigmoid, torch.relu, torch.isnan, torch.isinf, torch.logical_not),
    *(torch.clone, F.softplus, F.silu, F.elu, F.logsigmoid, torch.isfinite, torch.trunc, torch.round),
    *(torch.asin, torch.acos, torch.asinh, torch.acosh, torch.atanh, torch.exp2, torch.log10, torch.erfc, F.mish),
    *(torch.sinh, torch.cosh, torch.lgamma, torch.digamma, F.leaky_relu, F.hardtanh, torch.nan_to_num),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_one_number(dtype):
    x = torch.tensor(SPECIAL_VALUES, dtype=dtype)
    trig = torch.where(x.abs() > 1e3, 0.0, x)  # beyond, single precision has no digits left

    def function():
        return tuple(f(trig if f in (torch.sin, torch.cos, torch.tan) else x) for f in UNARY)

    same(function, rtol=2e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_two_numbers(dtype):
    x = torch.tensor(SPECIAL_VALUES, dtype=dtype)
    a, b = x[:, None], x[None, :]

    def function():
        return (
            *(a + b, a - b, a * b, a / b, torch.maximum(a, b), torch.minimum(a, b), torch.where(a > 0, a, b)),
            *(a == b, a != b, a < b, a <= b, a > b, a >= b, torch.logical_and(a, b), torch.logical_or(a, b)),
            *(
                torch.atan2(a, b),
                torch.add(a, b, alpha=2.5),
                torch.sub(a, b, alpha=3),
                torch.rsub(a, b, alpha=0.5),
                torch.pow(a, b),
            ),
            *(torch.addcmul(a, b, b, value=0.5), torch.addcdiv(a, b, b, value=2.0), a.clamp_min(b), a.clamp_max(b)),
            *(a + 1, 2 - a, 0.1 * a, a / 3, 3 / a, a**2, a**3, a**0.5, a**-0.5, a**-1, a**-2, a**0, a**1.7, 2**a),
            *(a.clamp(-0.5, 0.5), a.masked_fill(b > 0, -1.0), a > 0.5, a == 0, torch.logaddexp(a, b)),
        )

    same(function, rtol=2e-6 if dtype == torch.float32 else 1e-14)


def test_integers_and_truth_values():
    i, j = torch.arange(-4, 5), torch.tensor([3, -3, 7, 1, 2, -1, 5, 4, 9])
    small, truth = i.to(torch.int32), i > 0

    def function():
        return (
            *(i + j, i - j, i * j, i / j, i % 3, i % -3, i.abs(), -i, i.sign(), i**2, i & 5, i | 5, i ^ j, ~i),
            *(i << 2, (i & 255) >> 1, small + 1, small * i, small + 0.5, truth & (j > 2), truth | (j > 2), ~truth),
            *(truth + truth, truth * 2, truth.to(torch.float64), i.to(torch.float32), i == j, truth == (j > 2)),
            *(torch.where(truth, i, j), torch.where(truth, 1.5, 0.5), i.sum(), truth.sum(), i.float().mean()),
            *(torch.remainder(i.float(), 2.5), torch.remainder(i.double(), -2.5), i > 1.5, i + torch.tensor(0.5)),
        )

    same(function)


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 1), (1, 7), (3, 7), (2, 3, 5), (4, 1, 33), (2, 9000)])
def test_reductions(shape):
    x = normal(*shape)
    flipped = x.mT if x.dim() > 1 else x
    dims = [[d] for d in range(len(shape))] + [[0, len(shape) - 1]] if len(shape) > 1 else [[0]]

    def function():
        found = [x.sum(), x.mean(), flipped.sum(0), x.double().sum(-1), x.exp().sum(0, keepdim=True)]
        for dim in dims:
            found += [x.sum(dim), x.mean(dim, keepdim=True), x.amax(dim), x.amin(dim, keepdim=True)]
            found += [x.sum(dim, dtype=torch.float64), flipped.sum(dim=dim), x[..., ::2].sum(dim)]
            found += [x.cumsum(dim[0]), x.cumprod(dim[0]), x[..., :3].prod(dim[0])]
        if len(shape) > 1:
            found += [
                x.std(),
                x.var(0, correction=0),
                *torch.var_mean(x, (0, 1), keepdim=True),
                F.layer_norm(x, shape),
            ]
        return (*found, x.logsumexp(-1), x.softmax(-1), x.log_softmax(0), x.norm())

    same(function, rtol=1e-5)


def test_maxima_keep_nan_and_infinities():
    x = torch.tensor([[1.0, NAN, 2.0], [-INF, -INF, -INF], [INF, 0.0, -INF]])
    same(lambda: (x.amax(1), x.amin(1), x.amax(0), x.amin(0), x.amax((0, 1))))


@pytest.mark.parametrize("vector_bytes", [32, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_products(dtype, vector_bytes, monkeypatch):
    """Every orientation, with rows of registers left over; of wider vectors what a compiler makes of them here."""
    monkeypatch.setattr(products, "VECTOR_BYTES", vector_bytes)
    rows, columns, inner = (1, 3, 9), (1, 2, 7, 8, 17, 33), (1, 5, 21)
    sizes = {*rows, *columns, *inner}
    x = {(r, c): normal(r, c, dtype=dtype, seed=100 * r + c) for r in sizes for c in sizes}
    long = 0.1 * normal(600, 33, dtype=dtype)

    def function():
        found = []
        for m in rows:
            for n in columns:
                for k in inner:
                    found += [x[m, k] @ x[k, n], x[k, m].t() @ x[n, k].t()]
                found += [x[5, m].t() @ x[5, n], x[m, 5] @ x[n, 5].t(), (x[n, 5] @ x[5, m]).t()]
                found += [x[m, 21][0] @ x[21, n], x[m, 21] @ x[21, n][:, 0]]
        found += [long.t() @ long[:, :3], long.t() @ long]  # in several panels
        return tuple(found)

    same(function, rtol=1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_without_changing_a_bit(threads):
    """What is large enough to be shared: products of many rows, or of long sums; nests; reductions."""
    x, w, v = normal(1031, 67), normal(67, 50), normal(3, 50, 1000)
    found = []
    before = torch.get_num_threads()

    def function():
        h = torch.tanh(x @ w + w[0])
        return (
            h,
            x.t() @ h,
            h.t() @ h,
            (h.t() @ x).t(),
            v @ h[:1000],
            v.transpose(1, 2) @ v,
            h.amax(1),
            h.exp().sum(1),
        )

    program = compiled(function)
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            found.append(program())
    finally:
        torch.set_num_threads(before)
    for one, other, expected in zip(*found, function(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-3)


def test_batches_of_products():
    a, b, v = normal(3, 5, 6), normal(3, 6, 9), normal(3, 6)
    one = normal(5, 6)

    def function():
        return (
            *(a @ b, one @ b, a @ b[0], one @ v.t(), v @ one.t(), torch.einsum("bij,bj->bi", a, v)),
            *(b.mT @ a.mT, (one.expand(3, 5, 6) @ v[:, :, None]), v[:, None] @ b, torch.einsum("bi,bj->bij", v, v)),
        )

    same(function, rtol=1e-5)


def test_moving_elements():
    x, y = normal(3, 4, 5), normal(3, 2, 5)
    rows, columns = torch.tensor([2, 0, -1, 1, 0]), torch.tensor([[0, 3], [1, 1]])
    labels = torch.tensor([[[0, 1, 2, 3, 0]], [[1, 1, 1, 1, 1]], [[3, 2, 1, 0, 3]]])

    def function():
        z = torch.zeros(3, 4, 5)
        z[:, 1:3] = y
        z[0, :, ::2] += 1
        w = torch.empty(4)
        w.fill_(2).mul_(3)
        u = x.clone()
        u[1:].copy_(x[:2])  # from what it writes
        aten = torch.ops.aten
        backward = aten.slice_backward(y, [3, 4, 5], 1, -2, 9, 1), aten.select_backward(y[:, 0], [3, 4, 5], 1, -1)
        return (
            *backward,
            *(
                torch.cat([x, y], 1),
                torch.cat([y, y], -1),
                torch.stack([x, x + 1], 2),
                torch.stack([x, x]),
                z,
                w,
                u,
            ),
            *(
                x[rows],
                x[:, columns],
                x[rows[:2], rows[2:4]],
                torch.index_select(x, 0, rows[:2]),
                x.gather(1, labels),
            ),
            *(torch.zeros(3, 4, 5).scatter_add(1, labels, x[:, :1]), x.permute(2, 0, 1).reshape(5, 12), x.flip(1)),
            *(
                torch.arange(7),
                torch.arange(1.5, 4.0, 0.5),
                torch.ones(2, 3),
                torch.full((2,), 7.5),
                x.repeat(1, 2, 1),
            ),
            *(
                x.index_put((rows[:3], rows[1:4]), y[:, 0]),
                x.index_put((rows,), x[0, 0], accumulate=True),
                x.flip(0, 2),
            ),
            *(x.new_zeros(3), torch.zeros_like(x), F.pad(x, (1, 2)), x.roll(1, 0), x.tril()),
        )

    same(function)


def test_gradients():
    """Of whatever torch's own backward passes consist of."""
    x, w, labels = normal(6, 4), normal(4, 3), torch.tensor([0, 2, 1, 1, 0, 2])

    def loss(w):
        logits = torch.tanh(x @ w)[:, :3] + F.softplus(x[:, :3]) * w[0]
        ends = w[-1].exp().sum() + w[:, -2:].square().sum()
        groups = w[labels % 4, 0] * w.cumsum(0)[1, 2] + torch.lgamma(w.square() + 1).mean()  # as of a hierarchy
        smooth = F.gelu(w).sum() + F.layer_norm(w, (3,)).sum().exp() + w[1:3].prod(0).sum()
        return ends + groups.sum() + smooth + F.cross_entropy(logits, labels) + w.select(1, 0).square().sum().sqrt()

    function = lambda: torch.func.vmap(torch.func.grad(loss))(torch.stack([w, 2 * w, -w]))  # noqa: E731
    same(function, rtol=1e-5)


def test_what_is_written_is_seen_by_what_follows():
    """Fusion must not change the order of reads and writes of one buffer."""
    x, y = normal(4, 5), normal(4, 5, seed=1)

    def function():
        x.add_(y)
        total = x.sum(0)
        x.mul_(2)
        y.copy_(x.flip(0))
        x[:, 1:3].mul_(x[:, 3:])
        y[0].add_(total)
        x[1] = x[0] + x[2]
        return x.clone(), y.clone(), total

    program, begin = compiled(function), (x.clone(), y.clone())
    found = [*program(), x.clone(), y.clone()]
    x.copy_(begin[0]), y.copy_(begin[1])
    expected = [*function(), x.clone(), y.clone()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_loops_and_iterations():
    """Several iterations, each with its own number of rounds, are as many calls; results are stacked."""
    x, y, varying, fixed = torch.zeros(3), torch.ones(2), Repeats(0), Repeats(2)

    def function():
        repeat(lambda: x.add_(y.sum()), varying)
        repeat(lambda: y.mul_(1.5), fixed)
        return x.clone(), y.sum()

    program, rounds = compiled(function), torch.tensor([2, 0, 5])
    assert (varying.number, int(fixed.tensor)) == (0, 2), "as found"
    stacked = program.iterations({varying: rounds}, 3)
    ends = x.clone(), y.clone()
    x.zero_(), y.fill_(1)
    for index, number in enumerate(rounds.tolist()):
        varying.set(number)
        for one, other in zip(program(), stacked, strict=True):
            assert torch.equal(one, other[index])
    assert torch.equal(x, ends[0])
    assert torch.equal(y, ends[1])
    x.zero_(), y.fill_(1)
    varying.set(2)
    function()
    torch.testing.assert_close(x, torch.full((3,), 4.0))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.half() + 1, "numbers of type torch.float16"),
        (lambda x: torch.linalg.qr(x)[0], "linalg"),
        (lambda x: torch.fft.fft(x).real, "complex64"),
        (lambda x: torch.polygamma(1, x), "polygamma"),
        (lambda x: torch.round(x, decimals=2), "round with decimals"),
        (lambda x: x[x[0].sort()[1]], "sort"),
    ],
)
def test_what_has_no_translation_is_named(function, reason):
    x = normal(3, 3).abs() + 1
    with pytest.raises(native.Untranslatable, match=reason):
        compiled(lambda: function(x))
    assert native_program(lambda: function(x)) is None


def test_a_fault_of_the_translation_is_noticed(monkeypatch):
    """Machine code is compared with torch before it is used."""
    x = normal(3)
    monkeypatch.setitem(operations.EXPRESSIONS, "exp", "expF(-{0})")
    with pytest.raises(native.WrongResult, match=r"a result of shape \(3,\) differs by"):
        compiled(lambda: x.exp())
    with pytest.warns(UserWarning, match=r"runs without machine code, for a fault .* differs by"):
        assert native_program(lambda: x.exp()) is None


def test_a_direction_that_is_nothing_but_rounding_is_no_fault(monkeypatch):
    """A gradient at a mode: a sum and its opposite, which no two orders of adding agree on."""
    x = normal(999, 3)
    prior, out = -x.sum(0), torch.zeros(3)

    def direction():
        force = x.sum(0) + prior
        out.copy_(force / force.norm())
        prior.mul_(1.0)

    first = compiled(direction)
    prior.add_(1.0)
    first()
    found = out.clone()
    direction()
    torch.testing.assert_close(found, out)
    monkeypatch.setattr(native, "_BESIDE", 0.0)
    prior.copy_(-x.sum(0))
    with pytest.raises(native.WrongResult):
        compiled(direction)


def test_a_decomposition_that_reads_values_does_not_end_a_run(monkeypatch):
    """The operation itself could be recorded: another way is left."""
    x = normal(3)

    def reading(given):
        return given * float(given.sum())

    exp = torch.ops.aten.exp.default
    monkeypatch.setattr(native, "decompose", lambda func: reading if func is exp else decompose(func))
    assert "reads a tensor's value" in native.native_refusal(lambda: x.exp())
    assert native_program(lambda: x.exp()) is None
    torch.testing.assert_close(Program(lambda: x.exp(), "loop")(), x.exp())


@pytest.mark.parametrize("name", some_slow(SAMPLERS, fast=("hmc", "mclmc", "sghmc_cyclical")))
def test_every_sampler_has_a_translation(name, monkeypatch):
    def refuse(recording):
        raise AssertionError("not translated")

    monkeypatch.setattr("hmc_fast.compute.program.compile_recording", refuse)
    posterior, _ = linear_regression()
    sampler = SAMPLERS[name]()
    state = sampler.init(posterior.prepared(path="loop"), posterior.initial("prior", 2, 0), seed=1)
    sampler.step(state)
    sampler.step(state, warming_up=True)


def test_large_products_are_left_to_a_library():
    x = normal(700, 700)
    with pytest.raises(
        native.Untranslatable, match="343,000,000 multiplications, for which torch's library is faster"
    ):
        compiled(lambda: x @ x)


def test_buffers_that_share_memory_are_left_alone():
    array = normal(8).numpy()
    x, y = torch.from_numpy(array[:6]), torch.from_numpy(array[2:])
    with pytest.raises(native.Untranslatable, match="share memory"):
        compiled(lambda: x.add_(y))


def test_without_a_compiler(monkeypatch):
    x = torch.ones(2)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native_program(lambda: x + 1) is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(library.NoCompiler, match="no C compiler is installed"):
        library.load("void run(void) {}")


def test_a_compiler_that_fails_says_why():
    with pytest.raises(library.NoCompiler, match="gcc failed: "):
        library.load("nonsense")


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder
    x = torch.ones(2)
    assert native_program(lambda: x + 1)().tolist() == [2, 2]


def test_a_damaged_library_is_built_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = torch.ones(2)
    program = (
        "import torch, hmc_fast.compute.native as n; x = torch.ones(2); print(n.native_program(lambda: x + 1)())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    (built,) = (tmp_path / "hmc_fast" / "native").glob("*.so")
    built.write_bytes(built.read_bytes()[:100])
    assert native_program(lambda: x + 1)().tolist() == [2, 2]
    (again,) = (tmp_path / "hmc_fast" / "native").glob("*.so")
    assert again.stat().st_size > 100
