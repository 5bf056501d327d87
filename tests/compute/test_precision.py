"""Low precision: for the gradient alone, with exact energies."""

import inspect

import pytest
import torch

import hmc_fast
from cases import data, network
from hmc_fast.compute import precision
from hmc_fast.compute.compilation import compile_function

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEWER = [part for part in (MATMUL, getattr(CUDNN, "conv", None)) if hasattr(part, "fp32_precision")]


def flags():
    """torch's flags for float32 arithmetic, those that can be read."""
    older = (MATMUL, "allow_tf32"), (CUDNN, "allow_tf32")
    found = []
    for owner, name in (*older, *((part, "fp32_precision") for part in NEWER)):
        try:
            found.append(getattr(owner, name))
        except RuntimeError:
            found.append("unreadable")
    return found


@pytest.fixture(params=["torch's", "older", "older, off", *(["newer", "generic"] if NEWER else [])])
def users_setting(request):
    """What a user may have set before, and by which of torch's flags."""
    before, older = [part.fp32_precision for part in NEWER], (MATMUL.allow_tf32, CUDNN.allow_tf32)
    if request.param == "older":
        MATMUL.allow_tf32 = True
    if request.param == "older, off":
        MATMUL.allow_tf32 = CUDNN.allow_tf32 = False
    if request.param == "newer":
        MATMUL.fp32_precision = "tf32"
    if request.param == "generic":
        torch.backends.fp32_precision = "tf32"
    yield
    if NEWER:
        torch.backends.fp32_precision = "none"
    MATMUL.allow_tf32, CUDNN.allow_tf32 = older
    for part, value in zip(NEWER, before, strict=True):
        part.fp32_precision = value


def hopper(monkeypatch):
    """As far as torch is asked, there is an H100. Whatever it then warns of is an error (pyproject.toml)."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
def test_float32_flags_hold_inside_and_are_restored(name, users_setting, monkeypatch):
    hopper(monkeypatch)
    before = flags()
    with precision.arithmetic(name, torch.device("cuda")):
        assert flags() == [name == "tf32"] * 2 + ["tf32" if name == "tf32" else "ieee"] * len(NEWER)
        assert CUDNN.deterministic
    assert flags() == before
    assert not CUDNN.deterministic


@pytest.mark.slow
def test_compiling_for_a_gpu_warns_of_nothing(users_setting, monkeypatch, tmp_path):
    """Inductor remarks on float32 products that could be TF32, once per process, when it compiles one for a GPU."""
    from torch._inductor import compile_fx

    asked, remark = [], inspect.unwrap(compile_fx._warn_tf32_disabled)

    def on_hopper():
        with monkeypatch.context() as patch:
            hopper(patch)
            asked.append(remark())

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what is found in a cache is not compiled
    monkeypatch.setattr(compile_fx, "is_tf32_warning_applicable", lambda graph: True)  # a CPU's products are not
    monkeypatch.setattr(compile_fx, "_warn_tf32_disabled", on_hopper)
    product = compile_function(lambda x: x @ x.T, cpu=False)
    with precision._flags("fp32"):
        product(torch.ones(3, 4))
    assert asked


def test_low_precision_is_for_the_gradient_alone():
    x, y = data(dtype=torch.float32)
    exact = hmc_fast.Posterior(network(torch.float32), (x, y))
    low = hmc_fast.Posterior(exact._trainable(), (x, y), precision="bf16")
    assert exact.exact_gradient_pass
    assert not low.exact_gradient_pass
    theta = exact.initial("model", 2, 0)
    values = []
    for posterior in (exact, low):
        grad, log_lik, again = torch.empty_like(theta), torch.empty(2, 20), torch.empty(2, 20)
        posterior.log_likelihood_and_grad(theta, grad, log_lik)
        posterior.log_likelihood(theta, again)
        values.append((grad, log_lik, again))
    assert not torch.equal(values[0][0], values[1][0])
    torch.testing.assert_close(values[0][0], values[1][0], atol=0.3, rtol=0.1)
    assert torch.equal(values[0][2], values[1][2])
    torch.testing.assert_close(values[0][1], values[0][2])


def test_hmc_in_low_precision_still_targets_the_exact_posterior():
    """The recorded energy error is that of exact energies: it must match a float64 evaluation."""
    x, y = data(dtype=torch.float32)
    model = network(torch.float32)
    low = hmc_fast.Posterior(model, (x, y), prior=hmc_fast.Normal(0.2), precision="bf16")
    sampler = hmc_fast.HMC(0.1, num_leapfrog=5)
    state = sampler.init(low, low.initial("prior", 2, 0), seed=1)
    before = state.theta.clone()
    _, info = sampler.step(state)
    exact = hmc_fast.Posterior(model.double(), (x.double(), y), prior=hmc_fast.Normal(0.2))
    new, old = (exact.potential_and_grad(t.double())[0] for t in (state.proposal.theta, before))
    kinetic = 0.5 * (state.proposal.momentum.double() ** 2 - state.origin.momentum.double() ** 2).sum(1)
    torch.testing.assert_close(info.energy_error, new - old + kinetic, atol=1e-4, rtol=1e-4)
