"""Samplers and runs on a CUDA device: the same draws as on the CPU, no wait for the device inside a step."""

import gc
import weakref

import numpy as np
import pytest
import torch

import hmc_fast
from cases import SAMPLERS, classifier
from hmc_fast.compute.capture import Captured
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


@pytest.mark.filterwarnings("ignore:.*ynchronization debug mode:UserWarning")
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "hmc_jittered"])
def test_no_wait_inside_a_step(name):
    posterior = classifier()[0].to("cuda")
    sampler = SAMPLERS[name]()
    state = sampler.init(posterior, posterior.initial("prior", 3, 0), seed=1)
    sampler.step(state)  # kernels compile here
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_captured_draws_are_the_uncaptured_ones(name, compiled):
    posterior = classifier()[0].to("cuda")
    options = {"chains": 3, "burn_in": 2, "draws": 5, "progress": False, "compile": compiled}
    plain, captured = (hmc_fast.run(posterior, SAMPLERS[name](), graph=graph, **options) for graph in (False, True))
    assert np.array_equal(plain.draws, captured.draws)


def test_a_captured_iteration_consists_of_graphs():
    posterior = classifier()[0].to("cuda")
    sampler = hmc_fast.HMC(0.05, num_leapfrog=4)
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1, graph=True)
    _, first = sampler.step(state)
    before = [value.clone() for value in first[:-1]]
    steps = [step._captured for step in (*state.trajectory._steps, state.trajectory._last)]
    ends = [call for call in state._calls.values() if isinstance(call, Captured)]
    assert len(ends) == 2, "begin and test"
    assert all(captured.recorded for captured in (*steps, *ends))
    sampler.step(state)
    for value, kept in zip(first[:-1], before, strict=True):
        assert torch.equal(value, kept), "a replay overwrites what an earlier iteration returned"


@pytest.mark.parametrize("name", ["hmc", "split_hmc", "amagold", "adjusted_mclmc", "sghmc"])
def test_graphs_are_freed_with_their_chains(name):
    """At once: a graph keeps GB of activations, and the cyclic collector does not know that it should hurry."""
    posterior = classifier()[0].to("cuda")
    sampler = SAMPLERS[name]()
    gc.collect()
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1, graph=True)
    sampler.step(state)
    captured = [weakref.ref(value) for value in gc.get_objects() if type(value) is Captured]
    assert captured
    gc.disable()
    try:
        del state
        assert not any(reference() for reference in captured)
    finally:
        gc.enable()


def test_every_way_to_batch_chains_gives_the_same_draws():
    posterior, _, _ = classifier()
    theta = posterior.initial("prior", 5, 0).cuda()
    results = []
    for way, graph in (("vmap", False), ("loop", False), ("streams", False), ("streams", True)):
        target = posterior.to("cuda").prepared(path="eager", chain_batching=way)
        sampler = hmc_fast.HMC(0.05, num_leapfrog=4)
        state = sampler.init(target, theta, seed=1, graph=graph)
        for _ in range(3):
            sampler.step(state)
        results.append(state.theta.clone())
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-3, atol=1e-3)
    assert torch.equal(results[2], results[3]), "a graph's branches compute what streams do"


class Waits(torch.nn.Module):
    """Its scale is read back to the host in every pass."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x) * (1.0 if float(x.sum()) < 1e9 else 2.0)


def test_a_model_that_waits_runs_uncaptured_with_a_warning():
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    posterior = hmc_fast.Posterior(Waits(), (x, y), chain_batching="loop", device="cuda")
    options = {"chains": 2, "burn_in": 0, "draws": 2, "progress": False, "compile": False}
    with pytest.warns(UserWarning, match=r"the model calls aten\._local_scalar_dense"):
        hmc_fast.run(posterior, hmc_fast.HMC(0.01, num_leapfrog=2), **options)
    with pytest.raises(hmc_fast.UserError, match=r"the model calls aten\._local_scalar_dense"):
        hmc_fast.run(posterior, hmc_fast.HMC(0.01, num_leapfrog=2), graph=True, **options)
