"""Half precision where it holds the draws, and told where it does not."""

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.results.draw_precision import Spread, lost_coordinates, spacing
from interruption import interrupt_at


def draws(centre, sd, number=50, dim=3):
    generator = torch.Generator().manual_seed(0)
    return centre + sd * torch.randn(number, 2, dim, generator=generator, dtype=torch.float64)


def spread_of(values):
    spread = Spread(values[0])
    for each in values:
        spread.add(each[None])
    return spread


def test_spacing_is_that_of_float16():
    magnitudes = [0.0, 1e-9, 6.1e-5, 6.2e-5, 0.3, 0.999, 1.0, 1.5, 2.0, 1000.0, 60_000.0]
    expected = np.spacing(np.float16(magnitudes)).astype(np.float64)
    assert spacing(torch.tensor(magnitudes, dtype=torch.float64)).numpy() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("centre", "sd", "words"),
    [
        (0.0, 1.0, None),
        (100.0, 1.0, None),  # spacing 1/16
        (1000.0, 0.1, "3 of 3 coordinates would be rounded"),
        (0.0, 1e-8, "3 of 3 coordinates would be rounded"),  # among the subnormal numbers
        (20.0, 0.05, "3 of 3 coordinates would be rounded"),  # spacing 1/64
        (0.0, 1e4, "3 might overflow"),  # nothing is beyond yet
        (3e5, 1e4, "3 might overflow"),
        (1.0, 0.0, "3 of 3 coordinates would be rounded"),
    ],
)
def test_half_precision_must_hold_every_coordinates_spread(centre, sd, words):
    refusal = spread_of(draws(centre, sd)).refusal()
    assert refusal is None if words is None else words in refusal


def test_one_coordinate_is_enough():
    values = draws(0.0, 1.0)
    values[..., 1] += 5000
    assert "1 of 3 coordinates" in spread_of(values).refusal()


def test_a_few_values_tell_nothing():
    assert "too short to judge" in spread_of(draws(0.0, 1.0, number=4)).refusal()
    assert "(0 values" in Spread(torch.zeros(2, 3)).refusal()


def test_iterations_at_once_or_one_by_one_and_continued():
    values = draws(7.0, 1.0)
    whole, parts = Spread(values[0]), spread_of(values[:20])
    whole.add(values)
    again = Spread(values[0])
    again.load_state_dict({name: tensor.clone() for name, tensor in parts.state_dict().items()})
    again.add(values[20:])
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)
    count = int(whole.count)
    sd = (whole.squares / count - (whole.sum / count) ** 2).sqrt()
    torch.testing.assert_close(sd, values.flatten(0, 1).std(0, correction=0))


def test_lost_coordinates():
    values = draws(0.0, 1.0).numpy()
    values[..., 0] += 4000
    values[..., 1] = 2.0
    assert lost_coordinates(values.astype(np.float16)) == pytest.approx(2 / 3)
    assert lost_coordinates(values.astype(np.float32)) == 0


# --- in a run ---


def far_regression(noise=0.1, bias=1000.0):
    """A bias far from 0, known to about a hundredth of its spacing in float16."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 2, generator=generator)
    y = 0.3 * x.sum(1) + bias + noise * torch.randn(100, generator=generator)
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.bias.fill_(bias)
        model.weight.fill_(0.3)
    prior = hmc_fast.PerGroup({"bias": hmc_fast.Normal(1e8)}, default=hmc_fast.Normal(1.0))
    return hmc_fast.Posterior(model, (x, y), hmc_fast.Gaussian(noise), prior), x, y


OPTIONS = {"chains": 2, "burn_in": 40, "draws": 30, "init": "model"}


def sampler(noise=0.1):
    return hmc_fast.HMC(noise / 20, num_leapfrog=8)


def test_a_narrow_posterior_far_from_zero_is_stored_in_full(capsys):
    posterior, x, y = far_regression()
    run = hmc_fast.run(posterior, sampler(), test=(x, y), **OPTIONS)
    assert run.draws.dtype == np.float32
    assert "draws are stored in float32: in float16, 1 of 3 coordinates" in capsys.readouterr().err
    assert len(np.unique(run.draws[..., 2])) > 20
    assert run.predict(x).rmse(y) == pytest.approx(run.test.rmse(y), rel=1e-4)

    posterior, x, y = far_regression(bias=0.5)
    assert hmc_fast.run(posterior, sampler(), progress=False, **OPTIONS).draws.dtype == np.float16
    assert hmc_fast.run(posterior, sampler(), progress=False, **OPTIONS | {"burn_in": 2}).draws.dtype == np.float32


def test_what_half_precision_has_lost_is_told():
    posterior, x, y = far_regression()
    run = hmc_fast.run(posterior, sampler(), test=(x, y), draw_dtype=torch.float16, progress=False, **OPTIONS)
    found = "\n".join(run.diagnosis())
    assert "33% of the parameters lost their spread when rounded to float16" in found
    assert "Rounding the draws to float16 changes predictions by up to" in found

    posterior, x, y = far_regression(noise=1e4, bias=3e5)
    run = hmc_fast.run(posterior, sampler(1e4), test=(x, y), draw_dtype=torch.float16, progress=False, **OPTIONS)
    assert "60 stored values are beyond float16 and were clamped: use draw_dtype=torch.float32" in "\n".join(
        run.diagnosis()
    )


def test_float64_models_are_stored_in_float64():
    posterior, x, y = far_regression()
    double = hmc_fast.Posterior(posterior.flat.module.requires_grad_().double(), (x, y), hmc_fast.Gaussian(0.1))
    assert hmc_fast.run(double, sampler(), progress=False, **OPTIONS).draws.dtype == np.float64


@pytest.mark.parametrize("bias", [0.5, 1000.0])
@pytest.mark.parametrize("stop", [10, 30, 45])
def test_an_interrupted_run_stores_as_an_unbroken_one(tmp_path, monkeypatch, bias, stop):
    """In the first half of burn-in, the second, and after it."""
    posterior, _, _ = far_regression(bias=bias)
    whole = hmc_fast.run(posterior, sampler(), progress=False, **OPTIONS)
    options = {"out": tmp_path / "run", "progress": False} | OPTIONS
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            hmc_fast.run(posterior, sampler(), **options)
    again = hmc_fast.run(posterior, sampler(), resume=True, **options)
    assert again.draws.dtype == whole.draws.dtype
    np.testing.assert_array_equal(again.draws, whole.draws)


def test_the_chain_is_left_alone():
    """In float64 a conversion is no copy."""
    theta = draws(7.0, 1.0)[:1]
    before = theta.clone()
    Spread(theta[0]).add(theta)
    assert torch.equal(theta, before)
