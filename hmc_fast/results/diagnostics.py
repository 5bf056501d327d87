"""Convergence diagnostics for many quantities at once: R-hat, effective sample sizes, Monte Carlo standard errors.

Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, arXiv:1903.08008; E-BFMI: Betancourt 2016, arXiv:1604.00695.
Arrays are `(C, S, Q)`: chains, draws, quantities; results are `(Q,)`. The result is NaN for fewer than 4 draws per
chain, for a quantity that never changes (it has no variance to compare), and for one that is not finite.
"""

from collections.abc import Callable

import numpy as np

__all__ = [
    "e_bfmi",
    "ess_bulk",
    "ess_mean",
    "ess_sd",
    "ess_tail",
    "mcse_mean",
    "mcse_sd",
    "per_parameter",
    "plain_rhat",
    "rhat",
    "split_chains",
    "spread_evenly",
]

# Values processed at a time: 8 MiB, which fits in cache and bounds the memory of the transforms.
_BLOCK = 2**20

# Values read at a time from a file of draws, which may not fit in memory: 128 MiB in float64.
_VALUES_READ = 2**24


# Values whose ranks and spectra are computed at the end of a run: two seconds of a CPU.
_VALUES_JUDGED = 2**22


def per_parameter(statistic: Callable[[np.ndarray], np.ndarray], draws: np.ndarray) -> np.ndarray:
    """`statistic` of every parameter of stored draws `(S, C, D)`, one block of parameters at a time.

    statistic: maps float64 `(C, S, Q)` to `(..., Q)`. Returns `(..., D)`.
    """
    num_draws, num_chains, num_params = draws.shape
    width = max(1, _VALUES_READ // (num_draws * num_chains))
    blocks = (draws[:, :, begin : begin + width] for begin in range(0, num_params, width))
    parts = [statistic(np.moveaxis(block, 0, 1).astype(np.float64)) for block in blocks]
    return np.concatenate(parts, axis=-1)


def spread_evenly(x: np.ndarray) -> np.ndarray:
    """Of many long chains `(C, S, Q)` the quantities, evenly spread, whose diagnostics take a few seconds."""
    width = max(1, _VALUES_JUDGED // (x.shape[0] * x.shape[1]))
    if x.shape[2] <= width:
        return x
    return x[:, :, np.linspace(0, x.shape[2] - 1, width).astype(np.int64)]


def _by_block(statistic: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """`statistic` of a few quantities at a time, in float64; NaN where it is undefined."""
    chains, length, count = x.shape
    value = np.full(count, np.nan)
    if length < 4:
        return value
    width = max(1, _BLOCK // (chains * length))
    for begin in range(0, count, width):
        part = np.asarray(x[:, :, begin : begin + width], dtype=np.float64)
        judged = np.isfinite(part).all((0, 1)) & ~_still(part)
        if judged.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                value[begin : begin + width][judged] = statistic(part[:, :, judged])
    return value


def split_chains(x: np.ndarray) -> np.ndarray:
    """Splits every chain in two: `(C, S, Q)` -> `(2C, S // 2, Q)`; if S is odd, the middle draw is dropped."""
    half = x.shape[1] // 2
    return np.concatenate((x[:, :half], x[:, x.shape[1] - half :]))


def _rank_normalised(x: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks over all chains and draws (eq. 14)."""
    from scipy import special, stats  # takes half a second to import, and most importers of hmc_fast never need it

    rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)  # sorted along memory
    count = rows.shape[1]
    halves = (2 * stats.rankdata(rows, axis=1)).astype(np.int64)  # ranks of ties are halves
    score = special.ndtri((np.arange(2 * count + 1) / 2 - 0.375) / (count + 0.25))
    return np.ascontiguousarray(score[halves].T).reshape(x.shape)


def _rhat(x: np.ndarray) -> np.ndarray:
    length = x.shape[1]
    within = x.var(axis=1, ddof=1).mean(0)
    between = length * x.mean(1).var(axis=0, ddof=1)
    return np.sqrt((between / within + length - 1) / length)


def rhat(x: np.ndarray) -> np.ndarray:
    """Split R-hat: the maximum over ranks and folded ranks, which detects differences in location and scale."""

    def statistic(x: np.ndarray) -> np.ndarray:
        parts = split_chains(x)
        folded = np.abs(parts - np.median(parts.reshape(-1, parts.shape[-1]), axis=0))
        return np.maximum(_rhat(_rank_normalised(parts)), _rhat(_rank_normalised(folded)))

    return _by_block(statistic, x)


def plain_rhat(x: np.ndarray) -> np.ndarray:
    """Split R-hat of the values rather than their ranks. Without sorting it is cheap enough for every weight, but
    it cannot detect chains that differ only in scale, and is meaningless if the variance is infinite."""
    return _by_block(lambda x: _rhat(split_chains(x)), x)


def ess_bulk(x: np.ndarray) -> np.ndarray:
    """Bulk effective sample size: Geyer's initial monotone sequence on rank-normalised split chains."""
    return _by_block(lambda x: _ess(_rank_normalised(split_chains(x))), x)


def ess_tail(x: np.ndarray) -> np.ndarray:
    """Tail effective sample size: the minimum over the 5 % and the 95 % quantiles."""

    def statistic(x: np.ndarray) -> np.ndarray:
        low, high = np.quantile(x, (0.05, 0.95), axis=(0, 1))
        return np.minimum(*(_ess(split_chains((x <= edge).astype(np.float64))) for edge in (low, high)))

    return _by_block(statistic, x)


def ess_mean(x: np.ndarray) -> np.ndarray:
    """Effective sample size for the mean."""
    return _by_block(lambda x: _ess(split_chains(x)), x)


def mcse_mean(x: np.ndarray) -> np.ndarray:
    """Monte Carlo standard error of the mean over all chains and draws."""
    return _by_block(lambda x: x.std((0, 1), ddof=1) / np.sqrt(_ess(split_chains(x))), x)


def ess_sd(x: np.ndarray) -> np.ndarray:
    """Effective sample size for the standard deviation."""
    return _by_block(lambda x: _ess(split_chains(_squares(x))), x)


def mcse_sd(x: np.ndarray) -> np.ndarray:
    """Monte Carlo standard error of the standard deviation, by the delta method."""

    def statistic(x: np.ndarray) -> np.ndarray:
        squares = _squares(x)
        return np.sqrt(squares.var((0, 1)) / _ess(split_chains(squares)) / squares.mean((0, 1)) / 4)

    return _by_block(statistic, x)


def e_bfmi(energies: np.ndarray) -> np.ndarray:
    """Energy Bayesian fraction of missing information `(C,)` from the energies `(C, S)` of successive iterations.

    The mean squared change of the energy over its variance: 2 if successive energies are independent. Below 0.3,
    momentum resampling explores the energy distribution slowly (Betancourt 2016).
    """
    energies = np.asarray(energies, dtype=np.float64)
    if energies.shape[1] < 4:
        return np.full(len(energies), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((np.diff(energies, axis=1) ** 2).mean(1) / energies.var(1, ddof=1))


def _squares(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1))) ** 2


def _still(x: np.ndarray) -> np.ndarray:
    return (x.reshape(-1, x.shape[-1]) == x[0, 0]).all(0)


def _autocovariance(x: np.ndarray) -> np.ndarray:
    """Biased autocovariance along axis 1 by the Fourier transform."""
    length = x.shape[1]
    centred = x - x.mean(axis=1, keepdims=True)
    from scipy import fft

    size = fft.next_fast_len(2 * length)
    spectrum = fft.rfft(centred, size, axis=1)
    return fft.irfft(spectrum * spectrum.conj(), size, axis=1)[:, :length] / length


def _ess(x: np.ndarray) -> np.ndarray:
    num_chains, length, _ = x.shape
    autocovariance = _autocovariance(x)
    within = (autocovariance[:, 0] * length / (length - 1)).mean(0)
    total = within * (length - 1) / length
    if num_chains > 1:
        total = total + x.mean(1).var(axis=0, ddof=1)
    rho = 1 - (within - autocovariance.mean(0)) / total  # (S, Q)
    rho[0] = 1
    last = max(0, (length - 3) // 2)  # the last pair of lags considered, as in Stan and arviz
    even, odd = rho[0 : 2 * last + 1 : 2], rho[1 : 2 * last + 2 : 2]
    pairs = even + odd
    ended = pairs <= 0
    stop = np.where(ended.any(0), ended.argmax(0), last)  # (Q,) all pairs before this index are positive
    before = np.arange(last + 1)[:, None] < stop
    monotone = np.where(before, np.minimum.accumulate(pairs, axis=0), 0)
    tail = np.maximum(np.take_along_axis(even, stop[None], axis=0)[0], 0)
    tau = np.maximum(-1 + 2 * monotone.sum(0) + tail, 1 / np.log10(num_chains * length))
    return np.where(_still(x), num_chains * length, num_chains * length / tau)
