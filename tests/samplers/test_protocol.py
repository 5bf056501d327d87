"""Every public sampler keeps the one protocol: init, step in place, same seed same draws, no global state."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hmc_fast
import targets
from cases import SAMPLERS
from hmc_fast.samplers import Info
from hmc_fast.samplers.protocol import restore, state_tensors
from targets import linear_regression


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return SAMPLERS[request.param]()


def test_step_mutates_its_own_buffers_in_place(sampler):
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 3, 0)
    before = theta.clone()
    state = sampler.init(posterior, theta, seed=1)
    addresses = {
        name: tensor.data_ptr() for name, tensor in vars(state).items() if isinstance(tensor, torch.Tensor)
    }
    for warming_up in (True, False, False):
        same, info = sampler.step(state, warming_up=warming_up)
        assert same is state
    assert torch.equal(theta, before), "the caller's tensor was changed"
    assert not torch.equal(state.theta, before)
    now = {name: tensor.data_ptr() for name, tensor in vars(state).items() if isinstance(tensor, torch.Tensor)}
    assert now == addresses
    assert isinstance(info, Info)
    for name, value in info._asdict().items():
        if name != "num_leapfrog":
            assert value.shape == (3,), name
    assert info.num_leapfrog >= 1


@pytest.mark.parametrize("name", [name for name in SAMPLERS if hasattr(SAMPLERS[name](), "steps")])
@pytest.mark.parametrize("warming_up", [False, True])
def test_several_iterations_at_once_are_those_one_by_one(name, warming_up):
    posterior, _ = linear_regression()
    sampler, theta = SAMPLERS[name](), posterior.initial("prior", 3, 0)
    if warming_up and sampler.name == "hmc" and sampler.adapt:
        pytest.skip("not asked of a sampler that adapts")
    one, many = (sampler.init(posterior, theta, seed=1) for _ in range(2))
    single = []
    for _ in range(7):
        _, info = sampler.step(one, warming_up=warming_up)
        single.append((one.theta.clone(), *info[:-1], torch.tensor([info.num_leapfrog])))
    several = []
    for number in (1, 2, 4):
        _, draws, info = sampler.steps(many, number, warming_up=warming_up)
        several.append((draws, *info))
    for expected, found in zip(zip(*single, strict=True), zip(*several, strict=True), strict=True):
        assert torch.equal(torch.stack(expected).nan_to_num(-9), torch.cat(found).nan_to_num(-9))
    for key, tensor in state_tensors(one).items():
        assert torch.equal(tensor, state_tensors(many)[key]), key
    assert one.iteration.count == many.iteration.count


def test_two_states_share_nothing(sampler):
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 2, 0)
    first, second = sampler.init(posterior, theta, seed=1), sampler.init(posterior, theta, seed=1)
    for _ in range(3):
        sampler.step(first)
    assert torch.equal(second.theta, theta)
    for _ in range(3):
        sampler.step(second)
    assert torch.equal(first.theta, second.theta), "the same seed must give the same draws"


def test_seeds_and_chains_differ(sampler):
    posterior, _ = linear_regression()
    theta = posterior.initial(torch.zeros(2), 3, 0)
    results = []
    for seed in (1, 2):
        state = sampler.init(posterior, theta, seed=seed)
        for _ in range(3):
            sampler.step(state)
        results.append(state.theta.clone())
    assert not torch.equal(results[0], results[1])
    assert len(torch.unique(results[0], dim=0)) == 3, "chains that begin alike must part"


def test_a_chain_does_not_depend_on_the_others(sampler):
    """Chain 0 of three is chain 0 alone: randomness is keyed by chain, not by shape.

    Noise is made in float32. Compiled C++ takes its logarithm from a vector library for whole vectors and
    from the scalar one for what remains, so there the last bit of a draw may depend on how many chains there are.
    """
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 3, 0)
    many, one = sampler.init(posterior, theta, seed=3), sampler.init(posterior, theta[:1], seed=3)
    for _ in range(4):
        sampler.step(many)
        sampler.step(one)
    compiled = targets.PATH in ("compiled", "loop")
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if compiled else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(many.theta[:1], one.theta, **tolerance)


class NoHostRead(TorchDispatchMode):
    """Raises on every operation that would make the host wait for a value on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._opname not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), func
        if func._opname in ("index", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "boolean indexing"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "hmc_jittered"])  # jitter is the host's
def test_a_step_reads_nothing_back_to_the_host(name, request):
    if request.config.getoption("--path") in ("compiled", "loop"):
        pytest.skip("a dispatch mode does not see into compiled code")
    posterior, _ = linear_regression()
    sampler = SAMPLERS[name]()
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1)
    with NoHostRead():
        sampler.step(state)
        sampler.step(state, warming_up=True)
    with pytest.raises(AssertionError), NoHostRead():
        state.theta.sum().item()


def test_no_global_generator_is_touched(sampler):
    posterior, _ = linear_regression()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1)
    sampler.step(state)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_checkpointed_tensors_restore_the_chain(sampler):
    """Restoring `state_tensors` in a new state continues the very same chain."""
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 2, 0)
    state = sampler.init(posterior, theta, seed=1)
    for _ in range(3):
        sampler.step(state)
    copy = sampler.init(posterior, theta, seed=1)
    restore(copy, {name: tensor.clone() for name, tensor in state_tensors(state).items()})
    for _ in range(3):
        sampler.step(state)
        sampler.step(copy)
    assert torch.equal(state.theta, copy.theta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hmc_fast.HMC(-1.0, num_leapfrog=3), "step size -1.0"),
        (lambda: hmc_fast.HMC(float("nan"), num_leapfrog=3), "step size nan"),
        (lambda: hmc_fast.HMC(0.1), "either trajectory_length or num_leapfrog"),
        (lambda: hmc_fast.HMC(0.1, trajectory_length=1.0, num_leapfrog=3), "but not both"),
        (lambda: hmc_fast.HMC(0.1, trajectory_length=0.0), "trajectory length 0.0"),
        (lambda: hmc_fast.HMC(0.1, num_leapfrog=0), "leapfrog steps 0"),
        (lambda: hmc_fast.HMC(0.1, num_leapfrog=1, jitter=1.0), "jitter 1.0"),
        (lambda: hmc_fast.HMC(0.1, num_leapfrog=1, acceptance="ratio"), "acceptance rule 'ratio'"),
        (lambda: hmc_fast.HMC(num_leapfrog=1), "step size, or adapt=True"),
        (lambda: hmc_fast.HMC(0.1, num_leapfrog=1, integrator="rk4"), "integrator 'rk4'"),
        (lambda: hmc_fast.HMC(adapt=True, target_acceptance=1.0), "target acceptance 1.0"),
        (lambda: hmc_fast.GHMC(0.0, friction=1.0), "step size 0.0"),
        (lambda: hmc_fast.GHMC(0.1, friction=-1.0), "friction -1.0"),
        (lambda: hmc_fast.GHMC(0.1, friction=1.0, num_leapfrog=0), "leapfrog steps 0"),
        (lambda: hmc_fast.GHMC(0.1, friction=1.0, acceptance_drift=2.0), "acceptance drift 2.0"),
        (lambda: hmc_fast.SplitHMC(-0.1, num_splits=2, num_leapfrog=1), "step size -0.1"),
        (lambda: hmc_fast.SplitHMC(0.1, num_splits=1, num_leapfrog=1), "number of splits 1"),
        (lambda: hmc_fast.SplitHMC(0.1, num_splits=2), "either trajectory_length or num_leapfrog"),
        (lambda: hmc_fast.SplitHMC(0.1, num_splits=2, num_leapfrog=0), "leapfrog steps 0"),
        (lambda: hmc_fast.SplitHMC(0.1, num_splits=2, trajectory_length=-1.0), "trajectory length -1.0"),
        (lambda: hmc_fast.AMAGOLD(0.0, friction=1.0), "step size 0.0"),
        (lambda: hmc_fast.AMAGOLD(0.1, friction=-1.0), "friction -1.0"),
        (lambda: hmc_fast.AMAGOLD(0.1, friction=1.0, batch_size=-1), "batch size -1"),
        (lambda: hmc_fast.AMAGOLD(0.1, friction=1.0, num_leapfrog=0), "leapfrog steps 0"),
        (lambda: hmc_fast.MCLMC(0.0), "step size 0.0"),
        (lambda: hmc_fast.MCLMC(0.1, decoherence_length=-1.0), "decoherence length -1.0"),
        (lambda: hmc_fast.MCLMC(adapt=False), "step size, or adapt=True"),
        (lambda: hmc_fast.MCLMC(batch_size=8), "not batch size 8"),
        (lambda: hmc_fast.MCLMC(0.1, energy_variance=0.0), "energy variance 0.0"),
        (lambda: hmc_fast.AdjustedMCLMC(num_leapfrog=1), "step size, or adapt=True"),
        (lambda: hmc_fast.AdjustedMCLMC(0.1), "either trajectory_length or num_leapfrog"),
        (lambda: hmc_fast.SGHMC(0.0, friction=1.0), "step size 0.0"),
        (lambda: hmc_fast.SGHMC(0.1, friction=-1.0), "friction -1.0"),
        (lambda: hmc_fast.SGHMC(0.1, friction=10.0), "must be under 1"),
        (lambda: hmc_fast.SGHMC(0.1, friction=1.0, noise_estimate=2.0), "noise estimate 2.0"),
        (lambda: hmc_fast.SGHMC(0.1, friction=1.0, batch_size=-1), "batch size -1"),
        (lambda: hmc_fast.SGHMC(0.1, friction=1.0, steps_per_iteration=0), "steps per iteration 0"),
        (lambda: hmc_fast.SGHMC(0.1, friction=1.0, refresh_interval=-1), "refresh interval -1"),
        (lambda: hmc_fast.SGLD(-1e-3), "step size -0.001"),
        (lambda: hmc_fast.SGLD(1e-3, batch_size=-1), "batch size -1"),
        (lambda: hmc_fast.SGLD(1e-3, steps_per_iteration=0), "steps per iteration 0"),
        (lambda: hmc_fast.PSGLD(float("inf")), "step size inf"),
        (lambda: hmc_fast.PSGLD(1e-3, decay=1.0), "decay 1.0"),
        (lambda: hmc_fast.PSGLD(1e-3, damping=0.0), "damping 0.0"),
        (lambda: hmc_fast.SGNHT(0.1, friction=0.0), "friction 0.0"),
        (lambda: hmc_fast.SGNHT(0.1, friction=10.0), "must be under 1"),
        (lambda: hmc_fast.UnderdampedLangevin(0.0, friction=1.0), "step size 0.0"),
        (lambda: hmc_fast.UnderdampedLangevin(0.1, friction=-1.0), "friction -1.0"),
        (lambda: hmc_fast.UnderdampedLangevin(0.1, friction=1.0, scheme="abo"), "scheme 'abo'"),
    ],
)
def test_bad_settings_name_the_value(make, message):
    with pytest.raises(hmc_fast.UserError, match=message.replace("(", r"\(")):
        make()


def test_trajectory_length_gives_the_ceiling():
    assert hmc_fast.HMC(0.1, trajectory_length=0.3).num_leapfrog == 3
    assert hmc_fast.HMC(0.3, trajectory_length=2.1).num_leapfrog == 7  # 7.000000000000001
    assert hmc_fast.HMC(0.1, trajectory_length=0.31).num_leapfrog == 4
    assert hmc_fast.HMC(1e-5, trajectory_length=0.7025).num_leapfrog == 70250


def test_batch_larger_than_the_data_is_refused():
    posterior, _ = linear_regression(num_data=8)
    sampler = hmc_fast.SGHMC(0.02, friction=5.0, batch_size=9)
    with pytest.raises(hmc_fast.UserError, match="batch size 9 must lie between 1 and the 8"):
        sampler.init(posterior, posterior.initial("prior", 1, 0))
