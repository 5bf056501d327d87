"""What a CUDA graph captures writes to its buffers alone, and is freed with its chains.

Recording calls it several times and then restores the buffers; whatever else it wrote would stay changed.
"""

import gc
import weakref

import pytest
import torch

from cases import SAMPLERS, classifier
from hmc_fast.dynamics.gradient_step import GradientStep
from hmc_fast.samplers import adjusted_mclmc, metropolis_chain, minibatch_chain
from hmc_fast.samplers.metropolis_chain import Chain
from hmc_fast.samplers.protocol import buffers


@pytest.fixture
def units(monkeypatch):
    """Weak references to the gradient steps made in a test, and the faults of what was captured on a GPU."""
    steps, faults = [], []

    def watched(function, written):
        """Its result. Older objects than those of the test are frozen, so that few tensors have to be looked at."""
        before = [(value, value._version) for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
        result = function()
        known = {buffer.untyped_storage()._cdata for buffer in written}
        faults.extend(
            f"{tuple(tensor.shape)} {tensor.dtype}"
            for tensor, version in before
            if tensor._version != version and tensor.untyped_storage()._cdata not in known
        )
        return result

    def init(self, target, gradient, update, written, plain=GradientStep.__init__, **options):
        plain(self, target, gradient, update, written, **options)
        run = self._run
        self._run = lambda: watched(run, written)
        steps.append(weakref.ref(self))

    monkeypatch.setattr(GradientStep, "__init__", init)
    for module in (adjusted_mclmc, metropolis_chain, minibatch_chain):  # as on a GPU
        monkeypatch.setattr(module, "held", lambda state, device: weakref.proxy(state))
    call = Chain.call
    monkeypatch.setattr(Chain, "call", lambda self, function: watched(lambda: call(self, function), buffers(self)))
    gc.freeze()
    yield steps, faults
    gc.unfreeze()


@pytest.mark.parametrize("name", SAMPLERS)
def test_units_write_their_buffers_and_die_with_their_chains(name, units):
    steps, faults = units
    posterior, sampler = classifier()[0], SAMPLERS[name]()
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1)
    for warming_up in (True, False):
        sampler.step(state, warming_up=warming_up)
    assert not faults, "written besides the buffers"
    assert steps
    gc.collect()  # cycles of torch's own
    gc.disable()
    try:
        steps.append(weakref.ref(state))
        del state
        assert [reference() for reference in steps] == [None] * len(steps), "held by a cycle"
    finally:
        gc.enable()
