"""Samplers and runs on a CUDA device: the same draws as on the CPU, no wait for the device inside a step."""

import numpy as np
import pytest
import torch
from test_protocol import SAMPLERS
from test_runner import classifier

import hmc_fast
from hmc_fast.models import lenet5, resnet20

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_follow_the_cpu(name):
    posterior, _, _ = classifier()
    theta = posterior.initial("prior", 3, 0)
    states = []
    for target in (posterior, posterior.to("cuda")):
        sampler = SAMPLERS[name]()
        state = sampler.init(target, theta.to(target.device), seed=1)
        for _ in range(3):
            sampler.step(state)
        states.append(state.theta.cpu())
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "hmc_jittered"])
def test_no_wait_inside_a_step(name):
    posterior = classifier()[0].to("cuda")
    sampler = SAMPLERS[name]()
    state = sampler.init(posterior, posterior.initial("prior", 3, 0), seed=1)
    sampler.step(state)  # kernels compile here
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sampler.step(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("model", [lenet5, resnet20])
def test_same_seed_same_draws_and_flags_restored(model, precision):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 28, 28, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    posterior = hmc_fast.Posterior(model(), images, prior=hmc_fast.Normal(0.1), precision=precision, device="cuda")
    draws = [
        hmc_fast.run(
            posterior,
            hmc_fast.HMC(1e-3, num_leapfrog=3),
            chains=2,
            burn_in=1,
            draws=3,
            init="model",
            test=images,
            progress=False,
        ).draws
        for _ in range(2)
    ]
    assert np.array_equal(draws[0], draws[1])
    assert flags == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


def test_runs_predict_and_resume(tmp_path):
    posterior, x, y = classifier()
    options = {"chains": 2, "burn_in": 2, "draws": 6, "device": "cuda", "progress": False, "test": (x, y)}
    whole = hmc_fast.run(posterior, SAMPLERS["hmc"](), **options)
    stored = hmc_fast.run(posterior, SAMPLERS["hmc"](), out=tmp_path / "run", capacity=2, **options)
    assert np.array_equal(whole.draws, stored.draws)
    np.testing.assert_allclose(whole.predict(x).probs, whole.test.probs, atol=1e-3)
    again = hmc_fast.run(posterior, SAMPLERS["hmc"](), out=tmp_path / "run", resume=True, **options)
    assert np.array_equal(again.test.probs, whole.test.probs)
