"""Corruptions of greyscale images at five intensities, after Hendrycks and Dietterich 2019, arXiv:1903.12261.

Their severities are tuned for colour images of 224 pixels. Here they are fractions of the images' own range and
side length, so they are comparable on 8 x 8 digits and 28 x 28 clothes.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["CORRUPTIONS", "INTENSITIES", "corrupt"]

INTENSITIES = (1, 2, 3, 4, 5)


def corrupt(images: np.ndarray, name: str, intensity: int, seed: int = 0) -> np.ndarray:
    """`images (T, H, W)` under one of `CORRUPTIONS`; values stay within the range of the originals."""
    low, high = float(images.min()), float(images.max())
    unit = (images.astype(np.float64) - low) / (high - low)
    generator = np.random.Generator(np.random.Philox(seed))
    changed = CORRUPTIONS[name](unit, intensity / 5, generator)
    return (np.clip(changed, 0, 1) * (high - low) + low).astype(images.dtype)


def noise(x: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """White noise, with a standard deviation of up to half the range."""
    return np.asarray(x + 0.5 * strength * generator.standard_normal(x.shape))


def impulse(x: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Salt and pepper on up to 40 % of the pixels."""
    hit = generator.random(x.shape) < 0.4 * strength
    return np.where(hit, generator.integers(0, 2, x.shape), x)


def blur(x: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Gaussian blur, with a width of .06 to .1 of the side; less would be invisible at 8 pixels."""
    from scipy.ndimage import gaussian_filter

    width = (0.05 + 0.05 * strength) * x.shape[-1]
    return np.asarray(gaussian_filter(x, (0, width, width)))


def contrast(x: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Contrast reduced towards the image's mean, to a tenth at most."""
    mean = x.mean((1, 2), keepdims=True)
    return np.asarray(mean + (1 - 0.9 * strength) * (x - mean))


def rotation(x: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Rotation by up to 60 degrees, in either direction."""
    from scipy.ndimage import rotate

    left = rotate(x[::2], 60 * strength, axes=(2, 1), reshape=False, order=1)
    right = rotate(x[1::2], -60 * strength, axes=(2, 1), reshape=False, order=1)
    out = np.empty_like(x)
    out[::2], out[1::2] = left, right
    return out


def occlusion(x: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """A dark square at a random position, up to .6 of the side wide."""
    side = max(1, round(0.6 * strength * x.shape[-1]))
    out = x.copy()
    corners = generator.integers(0, x.shape[-1] - side + 1, (len(x), 2))
    for image, (row, column) in zip(out, corners, strict=True):
        image[row : row + side, column : column + side] = 0
    return out


CORRUPTIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "noise": noise,
    "impulse": impulse,
    "blur": blur,
    "contrast": contrast,
    "rotation": rotation,
    "occlusion": occlusion,
}
