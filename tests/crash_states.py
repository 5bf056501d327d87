"""What a power loss may leave of a run's folder, from a record of its file operations.

The model is the weakest that POSIX promises. Data written since a file's last fsync may be there, missing, or
torn; names changed since a folder's last fsync may be changed or not, each for itself. A rename happens whole or
not at all.
"""

import itertools
import os
from collections import defaultdict
from pathlib import Path


class RecordingOS:
    """Stands in for `os` in `hmc_fast.atomic_files`: does the same, and records what changes the disk below `root`.

    Attributes:
        events: (kind, ...) in order; "note" is for the test's own. Files are numbered, because their names change.
    """

    def __init__(self, root):
        self.root, self.events = root, []
        self._number = {}  # path -> number
        self._inode = {}  # number -> inode
        self._open = {}  # descriptor -> number, or the path of a folder
        self._content = {}  # number -> bytes that libraries wrote

    def __getattr__(self, name):
        return getattr(os, name)

    def _create(self, path):
        self._number[path] = number = len(self._inode)
        self._inode[number] = os.stat(path).st_ino
        self.events.append(("create", path, number))

    def _look(self, path):
        """Libraries write to a path of their own accord."""
        path = Path(path)
        if path not in self._number or os.stat(path).st_ino != self._inode[self._number[path]]:
            self._create(path)
        number, content = self._number[path], path.read_bytes()
        if content != self._content.get(number, b""):
            self._content[number] = content
            self.events.append(("content", number, content))

    def open(self, path, flags, mode=0o777):
        path = Path(path)
        is_new = not path.exists()
        descriptor = os.open(path, flags, mode)
        if path.is_dir():
            self._open[descriptor] = path
        else:
            if is_new:
                self._create(path)
            elif not flags & os.O_RDWR:
                self._look(path)
            self._open[descriptor] = self._number.get(path)
        return descriptor

    def pwrite(self, descriptor, data, offset):
        self.events.append(("write", self._open[descriptor], offset, bytes(data)))
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor, size):
        self.events.append(("size", self._open[descriptor], size))
        os.ftruncate(descriptor, size)

    def fsync(self, descriptor):
        what = self._open[descriptor]
        self.events.append(("sync folder", what) if isinstance(what, Path) else ("sync", what))

    def replace(self, source, target):
        source, target = Path(source), Path(target)
        if source.suffix != ".npy" or ".tmp" in source.name:
            self._look(source)
        self._number[target] = number = self._number.pop(source)
        self.events.append(("rename", source, target, number))
        os.replace(source, target)

    def unlink(self, path):
        self.events.append(("unlink", Path(path)))
        os.unlink(path)

    def mkdir(self, path):
        self.events.append(("mkdir", Path(path)))
        os.mkdir(path)


NAMES = ("create", "rename", "unlink", "mkdir")


def crash_states(events):
    """Every distinct tree, path -> bytes (None for a folder), that a power loss may leave after any event."""
    seen = set()
    for end in range(len(events) + 1):
        for tree in _after(events[:end]):
            key = frozenset(tree.items())
            if key not in seen:
                seen.add(key)
                yield end, tree


def _after(events):
    kept_names, open_names = [], []
    kept_data, open_data = defaultdict(list), defaultdict(list)
    for kind, *details in events:
        if kind in NAMES:
            open_names.append((kind, *details))
        elif kind == "sync folder":
            done = [op for op in open_names if details[0] in {p.parent for p in op[1:] if isinstance(p, Path)}]
            kept_names += done
            open_names = [op for op in open_names if op not in done]
        elif kind == "sync":
            kept_data[details[0]] += open_data.pop(details[0], [])
        elif kind != "note":
            open_data[details[0]].append((kind, *details[1:]))
    for names, data in itertools.product(_subsets(open_names), _written(open_data)):
        files = {n: _bytes(kept_data[n] + data.get(n, [])) for n in {*kept_data, *data}}
        yield _tree([*kept_names, *names], files)


def _subsets(operations):
    """Those of few operations; of many, none, all, each alone, and all but one."""
    if len(operations) <= 4:
        for size in range(len(operations) + 1):
            yield from itertools.combinations(operations, size)
        return
    yield from ((), operations)
    yield from ((operation,) for operation in operations)
    yield from (operations[:i] + operations[i + 1 :] for i in range(len(operations)))


def _written(open_data):
    """For all files together, and for each alone: nothing, everything, or everything but the half of the last."""
    yield {}
    yield open_data
    torn = {number: _torn(operations) for number, operations in open_data.items()}
    yield torn
    if len(open_data) > 1:
        for number in open_data:
            yield {number: open_data[number]}
            yield {**open_data, number: torn[number]}
            yield {n: operations for n, operations in open_data.items() if n != number}


def _torn(operations):
    *before, (kind, *details) = operations
    if kind == "size":
        return before
    return [*before, (kind, *details[:-1], details[-1][: len(details[-1]) // 2])]


def _bytes(operations):
    content = bytearray()
    for kind, *details in operations:
        if kind == "content":
            content = bytearray(details[0])
        elif kind == "size":
            content = content[: details[0]] + bytes(max(0, details[0] - len(content)))
        else:
            offset, data = details
            content += bytes(max(0, offset + len(data) - len(content)))
            content[offset : offset + len(data)] = data
    return bytes(content)


def _tree(names, files):
    tree, numbers = {}, {}
    for kind, path, *more in names:
        if kind == "create":
            numbers[path] = more[0]
        elif kind == "mkdir":
            tree[path] = None
        elif kind == "rename":
            numbers.pop(path, None)
            numbers[more[0]] = more[1]
        elif kind == "unlink":
            numbers.pop(path, None)
    tree = {folder: None for folder in tree if folder.parent in tree or folder.parent.exists()}
    return tree | {p: files.get(n, b"") for p, n in numbers.items() if p.parent in tree}


def write(tree, root, target):
    """Makes a tree that was below `root` below `target`."""
    for path, content in tree.items():
        place = target / path.relative_to(root)
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
    for path, content in tree.items():
        if content is not None:
            (target / path.relative_to(root)).write_bytes(content)
