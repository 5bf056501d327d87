"""Convergence diagnostics of many quantities at once: rank-normalised split R-hat and bulk ESS.

Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, arXiv:1903.08008. Arrays are `(C, S, Q)`: chains,
draws, quantities. A quantity that never moves has no variance to compare: its R-hat and ESS are NaN.
"""

import numpy as np

__all__ = ["ess_bulk", "rhat", "split_chains"]


def split_chains(x: np.ndarray) -> np.ndarray:
    """Halves every chain: `(C, S, Q)` -> `(2C, S // 2, Q)`; the middle draw of an odd number is dropped."""
    half = x.shape[1] // 2
    return np.concatenate((x[:, :half], x[:, x.shape[1] - half :]))


def _rank_normalised(x: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks over all chains and draws (eq. 14)."""
    from scipy import stats  # half a second to import, which few that import the package need

    flat = x.reshape(-1, x.shape[-1])
    ranks = stats.rankdata(flat, axis=0)
    return stats.norm.ppf((ranks - 0.375) / (len(flat) + 0.25)).reshape(x.shape)


def _plain_rhat(x: np.ndarray) -> np.ndarray:
    length = x.shape[1]
    within = x.var(axis=1, ddof=1).mean(0)
    between = length * x.mean(1).var(axis=0, ddof=1)
    return np.sqrt((between / within + length - 1) / length)


def rhat(x: np.ndarray) -> np.ndarray:
    """Split R-hat `(Q,)`: the larger of that of ranks and of folded ranks, so that location and scale count.

    Needs at least 4 draws per chain; NaN otherwise, and for quantities that never move.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.shape[1] < 4:
        return np.full(x.shape[2], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = split_chains(x)
        folded = np.abs(parts - np.median(parts.reshape(-1, parts.shape[-1]), axis=0))
        value = np.maximum(_plain_rhat(_rank_normalised(parts)), _plain_rhat(_rank_normalised(folded)))
    return np.where(_still(x), np.nan, value)


def ess_bulk(x: np.ndarray) -> np.ndarray:
    """Bulk effective sample size `(Q,)`: Geyer's initial monotone sequence on rank-normalised split chains."""
    x = np.asarray(x, dtype=np.float64)
    if x.shape[1] < 4:
        return np.full(x.shape[2], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = _ess(_rank_normalised(split_chains(x)))
    return np.where(_still(x), np.nan, value)


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
    last = max(0, (length - 3) // 2)  # the last pair of lags that is looked at, as in Stan and arviz
    even, odd = rho[0 : 2 * last + 1 : 2], rho[1 : 2 * last + 2 : 2]
    pairs = even + odd
    ended = pairs <= 0
    stop = np.where(ended.any(0), ended.argmax(0), last)  # (Q,) pairs before this one are positive
    before = np.arange(last + 1)[:, None] < stop
    monotone = np.where(before, np.minimum.accumulate(pairs, axis=0), 0)
    tail = np.maximum(np.take_along_axis(even, stop[None], axis=0)[0], 0)
    tau = np.maximum(-1 + 2 * monotone.sum(0) + tail, 1 / np.log10(num_chains * length))
    return num_chains * length / tau
