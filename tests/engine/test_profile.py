"""Profiles: written, and their costs printed."""

import json

import pytest
import torch

import hmc_fast
from hmc_fast.models import mlp


def network(chain_batching=None, n=40):
    x, y = torch.randn(n, 6), torch.randint(0, 3, (n,))
    return hmc_fast.Posterior(mlp(6, (8,), 3), (x, y), chain_batching=chain_batching)


@pytest.mark.parametrize("draws", [1, 9])
def test_a_profile_is_written_and_its_costs_printed(tmp_path, capfd, draws):
    hmc_fast.run(
        network(),
        hmc_fast.HMC(0.01, num_leapfrog=2),
        chains=1,
        burn_in=0,
        draws=draws,
        out=tmp_path / "run",
        progress=False,
        profile=True,
    )
    events = json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]
    assert any("addmm" in event.get("name", "") or "bmm" in event.get("name", "") for event in events)
    lines = [line for line in capfd.readouterr().err.splitlines() if " % " in line]
    assert len(lines) == 5
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)
