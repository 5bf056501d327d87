"""The counter-based random numbers: known answers, their distribution, and that no counter is used twice."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from hmc_fast.kernels import ops, reference
from hmc_fast.kernels.ops import Counter

# Random123, kat_vectors, philox4x32 10: counter words, key words, result words
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def counter(seed: int = 0, stream: int = 0, step: int = 0) -> Counter:
    return Counter(seed, stream, torch.tensor([step]))


def draws(count: int, *, seed: int = 0, stream: int = 0, step: int = 0, chain: int = 0) -> Tensor:
    return ops.normals(counter(seed, stream, step), chain + 1, count)[chain].double()


@pytest.mark.parametrize(("words", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(words: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([int(w, 16)]) for w in words.split())
    low, high = (int(k, 16) for k in key.split())
    result = reference.philox_rounds(c0, c1, c2, c3, low | high << 32)
    assert " ".join(f"{int(w):08x}" for w in result) == expected


def test_counter_words_are_block_step_chain_stream() -> None:
    seed, stream, step = 0x299F31D0A4093822, 0x03707344, 0x85A308D3
    grid = torch.stack(reference.philox(counter(seed, stream, step), 3, 5), dim=-1)
    for chain in range(3):
        for block in range(5):
            words = (torch.tensor([w]) for w in (block, step, chain, stream))
            expected = torch.cat(reference.philox_rounds(*words, seed))
            assert torch.equal(grid[chain, block], expected)


def test_uniforms_are_strictly_inside_the_unit_interval() -> None:
    ends = reference._unit(torch.tensor([0, 0xFFFFFFFF]))
    assert ends.tolist() == [2.0**-24, 1 - 2.0**-24]
    sample = ops.uniforms(counter(5), 3, 40_001)
    assert sample.shape == (3, 40_001)
    assert stats.kstest(sample.flatten().numpy(), "uniform").pvalue > 1e-3


def test_normals_are_normal() -> None:
    sample = ops.normals(counter(11), 4, 50_000).double()
    assert stats.kstest(sample.flatten().numpy(), "norm").pvalue > 1e-3
    for lane in range(4):  # each lane of Box-Muller by itself
        assert stats.kstest(sample[:, lane::4].flatten().numpy(), "norm").pvalue > 1e-3
    tail = (sample.abs() > 4).double().mean() / (2 * stats.norm.sf(4))
    assert 0.3 < tail < 2  # 12.7 of 200,000 are expected


@pytest.mark.parametrize(
    "other",
    [{"chain": 1}, {"step": 1}, {"stream": 1}, {"seed": 1}, {"seed": 2**32}, {"seed": 2**63}],
    ids=lambda o: "-".join(f"{k}{v}" for k, v in o.items()),
)
def test_neighbours_are_uncorrelated(other: dict[str, int]) -> None:
    count = 40_000
    a, b = draws(count), draws(count, **other)
    for shift in (0, 1, 4):  # a shared but shifted sequence would show as well
        size = count - shift
        for x, y in ((a, b), (a**2 - 1, b**2 - 1)):
            correlation = torch.corrcoef(torch.stack([x[:size], y[shift:]]))[0, 1]
            assert abs(float(correlation)) < 4.5 / size**0.5


def test_elements_are_uncorrelated() -> None:
    a = draws(100_000)
    for lag in range(1, 9):
        assert abs(float((a[lag:] * a[:-lag]).mean())) < 4.5 / len(a) ** 0.5


def test_no_counter_is_used_twice() -> None:
    """Distinct (seed, stream, step, chain, block) give distinct words; 64 of them collide by chance with
    probability 1e-10 at this number."""
    seen = []
    for seed in (0, 1, 2**32, 2**32 + 1):
        for stream in range(3):
            for step in (0, 1, 2):
                c0, c1, _, _ = reference.philox(counter(seed, stream, step), 4, 300)
                seen.append(((c0 << 32) ^ c1).flatten())
    words = torch.cat(seen)
    assert len(torch.unique(words)) == len(words) == 4 * 3 * 3 * 4 * 300


def test_a_value_depends_on_its_own_chain_and_element_alone() -> None:
    whole = ops.normals(counter(3), 5, 1023)
    assert torch.equal(ops.normals(counter(3), 3, 31), whole[:3, :31])


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    ops.normals(counter(1), 2, 100)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("seed", "stream", "step"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (2**31, 2**31, 2**31),
        (2**32 - 1, 2**32 - 1, 2**32 - 1),
        (2**63 + 5, 7, 2**40 + 3),  # only 32 bits of the step count
        (2**64 - 1, 16, 16),
    ],
)
def test_kernel_gives_the_twins_normals(device: str, seed: int, stream: int, step: int) -> None:
    for count in (31, 1023, 4097):
        expected = ops.normals(counter(seed, stream, step), 3, count, impl="torch")
        on_device = Counter(seed, stream, torch.tensor([step], device=device))
        got = ops.normals(on_device, 3, count, impl="triton")
        torch.testing.assert_close(got.cpu(), expected, rtol=2e-6, atol=2e-6)
