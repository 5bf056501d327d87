"""A disk whose k-th operation fails."""

import os

import safetensors.torch
from safetensors import SafetensorError

from hmc_fast import atomic_files

_OPERATIONS = ("open", "pwrite", "ftruncate", "posix_fallocate", "fsync", "replace", "unlink", "mkdir")


class FailingOS:
    """Stands in for `os` in `hmc_fast.atomic_files`: operation number `k`, from 0 on, raises OSError. A write that
    fails has written its first half."""

    def __init__(self, k, number):
        self.k, self.number, self.count = k, number, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        return (lambda *arguments: self._call(real, *arguments)) if name in _OPERATIONS else real

    def _call(self, real, *arguments):
        if self.fails():
            if real is os.pwrite:
                descriptor, data, offset = arguments
                os.pwrite(descriptor, data[: len(data) // 2], offset)
            raise OSError(self.number, os.strerror(self.number))
        return real(*arguments)

    def fails(self):
        self.count += 1
        return self.count - 1 == self.k


def failing(patch, k, number):
    """Puts the disk in place; its `count` tells whether the operation came."""
    disk, save_file = FailingOS(k, number), safetensors.torch.save_file

    def save(tensors, path, **options):
        if disk.fails():
            path.write_bytes(b"half")
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        save_file(tensors, path, **options)

    patch.setattr(atomic_files, "os", disk)
    patch.setattr(safetensors.torch, "save_file", save)
    return disk
