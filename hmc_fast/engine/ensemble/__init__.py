"""Members of a deep ensemble, trained together: `init="train"`, where chains begin, or an ensemble of their own."""

from .training import Training

__all__ = ["Training"]
