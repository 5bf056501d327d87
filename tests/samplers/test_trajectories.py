"""Whole chains by Triton kernels and by their torch twins, from the same counters."""

import pytest
import torch

import hmc_fast
from hmc_fast.kernels import ops

SAMPLERS = {
    "hmc": lambda: hmc_fast.HMC(0.05, num_leapfrog=4),
    "hmc_mass": lambda: hmc_fast.HMC(0.5, num_leapfrog=4, inverse_mass=torch.linspace(0.005, 0.02, 3)),
    "ghmc": lambda: hmc_fast.GHMC(0.05, friction=2.0, num_leapfrog=2),
    "split_hmc": lambda: hmc_fast.SplitHMC(0.02, num_splits=3, num_leapfrog=2),
    "amagold": lambda: hmc_fast.AMAGOLD(0.005, friction=2.0, batch_size=16),
    "mclmc": lambda: hmc_fast.MCLMC(0.02, steps_per_iteration=4),
    "adjusted_mclmc": lambda: hmc_fast.AdjustedMCLMC(0.02, num_leapfrog=4),
    "sghmc": lambda: hmc_fast.SGHMC(0.02, friction=5.0, batch_size=16),
    "sgld": lambda: hmc_fast.SGLD(1e-4, batch_size=16),
    "baoab": lambda: hmc_fast.UnderdampedLangevin(0.03, friction=50.0, batch_size=16),
}


def chain(sampler, device):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 2, generator=generator)
    y = x @ torch.tensor([1.0, -2.0]) + 0.5 * torch.randn(48, generator=generator)
    posterior = hmc_fast.Posterior(
        torch.nn.Linear(2, 1), (x, y), likelihood=hmc_fast.Gaussian(0.5), prior=hmc_fast.StudentT(5.0)
    ).to(device)
    if isinstance(getattr(sampler, "inverse_mass", None), torch.Tensor):
        sampler.inverse_mass = sampler.inverse_mass.to(device)
    state = sampler.init(posterior, posterior.initial(torch.tensor([0.9, -1.9, 0.1]), 3, 0), seed=7)
    thetas, infos = [], []
    for _ in range(4):
        _, info = sampler.step(state)
        thetas.append(state.theta.cpu().clone())
        infos.append(info)
    return torch.stack(thetas), infos


@pytest.mark.parametrize("name", SAMPLERS)
def test_triton_and_torch_walk_the_same_chain(name, device, monkeypatch):
    expected, expected_infos = chain(SAMPLERS[name](), "cpu")
    used = []
    plain = ops._use_triton

    def always(tensor, impl):
        used.append(plain(tensor, "triton"))
        return used[-1]

    monkeypatch.setattr(ops, "_use_triton", always)
    found, found_infos = chain(SAMPLERS[name](), device)
    assert len(used) > 4
    assert all(used)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)
    assert not torch.equal(expected[0], expected[-1])
    for one, other in zip(found_infos, expected_infos, strict=True):
        assert torch.equal(one.accepted.cpu(), other.accepted)
        torch.testing.assert_close(one.energy_error.cpu(), other.energy_error, rtol=0, atol=2e-3, equal_nan=True)
