"""The largest variance of any direction."""

import pytest
import torch

from cases import normal
from hmc_fast.adaptation import (
    PrincipalVariance,
)


def test_principal_variance_is_the_largest_eigenvalue():
    root = normal(6, 6, seed=3)
    vectors = normal(400, 8, 6, seed=4) @ root
    principal = PrincipalVariance(torch.zeros(7, dtype=torch.float64))
    for rows in vectors:
        principal.update(rows)
    largest = float(torch.linalg.eigvalsh(vectors.reshape(-1, 6).T @ vectors.reshape(-1, 6) / 3200)[-1])
    assert float(principal.value) == pytest.approx(largest, rel=0.1)
