"""Fused updates over the flat `(C, D)` buffer: Triton kernels and their plain torch twins.

Start at `ops.py` (what there is), then `reference.py` (what each operation means), then the Triton file of
the same name. Importing this package does not import triton.
"""
