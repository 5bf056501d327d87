"""Files that survive a crash: each is written completely or not at all, and is on the disk when the call returns.

Every file that a run depends on is written, renamed and removed here, by `os` of this module, so that a test can
record each of these operations or make it fail. docs/durability.md says what they add up to.
"""

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = [
    "NotWritten",
    "allocate",
    "make_folder",
    "open_file",
    "remove",
    "remove_leftovers",
    "rename",
    "sync",
    "write_at",
    "write_json",
    "write_text",
    "written_atomically",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of a file system that cannot reserve room, or cannot synchronise folders.
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class NotWritten(OSError, UserError):
    """A file that could not be written; what was there before is unchanged."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path, self.reason = path, error.strerror or str(error)
        cure = "make room" if error.errno in _FULL else "make it writable, or choose another directory"
        super().__init__(f"{path} cannot be written ({self.reason}): {cure}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises NotWritten for every error of the operating system."""
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        raise NotWritten(path, error) from error


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` when the block ends.

    It is in the same folder and has the same suffix, because numpy appends a missing one. If the block raises,
    `path` is unchanged and the temporary file is removed. A symbolic link at `path` is replaced, not followed.

    Raises:
        NotWritten: an error of the operating system, in the block too.
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    with _writing(path):
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666)
        try:
            mode = os.fstat(descriptor).st_mode  # by the umask
            os.close(descriptor)
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_mode != mode:  # a library made a new file of its own
                    os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # report the first error, not this one
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes atomically; NaN and infinities become null, as JSON has none."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes atomically, in UTF-8."""
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a half of a surrogate pair


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


# --- files that grow, folders and names ---


def open_file(path: Path) -> int:
    """A descriptor to read and write `path`, which is created if it is missing. A symbolic link is refused."""
    with _writing(path):
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)


def allocate(path: Path, descriptor: int, size: int) -> None:
    """Makes the file `size` bytes long and reserves their room, where the file system can."""
    with _writing(path):
        if hasattr(os, "posix_fallocate"):  # not on macOS
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        os.ftruncate(descriptor, size)


def write_at(path: Path, descriptor: int, data: memoryview, offset: int) -> None:
    """Writes all of `data`, which is on the disk only after `sync`."""
    with _writing(path):
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written


def sync(path: Path, descriptor: int) -> None:
    """Returns when the content of the file is on the disk."""
    with _writing(path):
        os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Replaces `target` by `source`; either the old or the new names are found after a crash."""
    with _writing(target):
        os.replace(source, target)
        for folder in {target.parent, source.parent}:
            _sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Creates a folder and those above it."""
    with _writing(folder):
        missing = [f for f in (folder, *folder.absolute().parents) if not f.is_dir()]
        for part in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was faster; a file fails below
                os.mkdir(part)
            _sync_folder(part.absolute().parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def remove(path: Path) -> None:
    """Removes a file, if it is there, at the latest with the next change to its folder that is synchronised."""
    with _writing(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of `written_atomically(path)`. None may be writing it now."""
    with _writing(path):
        for leftover in path.parent.glob(f"{path.stem}.*-*.tmp{path.suffix}"):
            remove(leftover)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
