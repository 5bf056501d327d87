"""Files written whole or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_json", "written_atomically"]


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yields the path to write to, which takes the place of `path` when the block ends.

    It lies in the same folder, with the same suffix, which numpy looks at. If the block raises, what `path`
    held before stays, and nothing else is left.
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes atomically; NaN and infinities become null, as JSON has none."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    with written_atomically(path) as temporary:
        temporary.write_text(text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
