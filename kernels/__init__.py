"""Fused updates over the flat `(C, D)` buffer: Triton kernels and their plain torch twins.

Start with `ops.py` (the list of operations), then `reference.py` (their definitions), then the Triton file that
implements one. Importing this package does not import triton.
"""
