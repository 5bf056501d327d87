"""Where what was measured, compiled or verified on this machine is kept between runs."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/hmc_fast`, or `~/.cache/hmc_fast`; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hmc_fast"
