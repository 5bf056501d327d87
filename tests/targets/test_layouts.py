"""Memory layout and micro-batches of convolutional models: the same values in each, and where there is a choice."""

import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.models import lenet5, mlp


class Strided(nn.Module):
    """A convolutional network that notes the strides of its images and of its second convolution's outputs."""

    def __init__(self, channels=1, flatten=None):
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 5, 3, stride=2)
        self.head = nn.Linear(45, 3)
        self.flatten = flatten or (lambda h: h.flatten(1))

    def forward(self, x):
        h = self.second(self.first(x).tanh())
        type(self).seen = x.stride(), h.stride()
        return self.head(self.flatten(h.tanh()))


def images(channels=1, n=20, dtype=torch.float32, side=9):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, side, side, generator=generator, dtype=dtype)
    return x, torch.randint(0, 3, (n,), generator=generator)


def posterior(channels=1, dtype=torch.float32, model=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (model or Strided(channels)).to(dtype)
    return hmc_fast.Posterior(model, images(channels, dtype=dtype), **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("path", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("chosen_rows", [False, True])
def test_values_do_not_depend_on_layout_and_micro_batch(channels, path, chosen_rows):
    target = posterior(channels, torch.float64)
    theta = target.initial("prior", 2, 0)
    rows = torch.randint(0, 20, (2, 15), generator=torch.Generator().manual_seed(1)) if chosen_rows else None
    expected = target.prepared(path="eager", layout="contiguous").potential_and_grad(theta, rows)
    found = target.prepared(path=path, layout="channels_last", micro_batch_size=6).potential_and_grad(theta, rows)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("chosen_rows", [False, True])
def test_convolutions_see_the_layout(channels, chosen_rows):
    """One channel included, where both layouts are the same memory and only strides tell them apart."""
    target = posterior(channels)
    theta = target.initial("prior", 1, 0)
    rows = torch.arange(7)[None] if chosen_rows else None
    strides = {"channels_last": ((81 * channels, 1, 9 * channels, channels), (45, 1, 15, 5))}
    strides["contiguous"] = ((81 * channels, 81, 9, 1), (45, 9, 3, 1))
    for layout, expected in strides.items():
        other = target.prepared(path="eager", layout=layout)
        for compute in (
            lambda other=other: other.potential_and_grad(theta, rows),
            lambda other=other: other.log_likelihood(theta, torch.empty(1, 20)),
            lambda other=other: other.predict(theta, target.x),
        ):
            Strided.seen = None
            compute()
            assert Strided.seen == expected


def test_predictions_do_not_depend_on_layout():
    target = posterior(3, torch.float64)
    theta = target.initial("prior", 2, 0)
    first, second = (
        target.prepared(path="eager", layout=layout).predict(theta, target.x)
        for layout in ("contiguous", "channels_last")
    )
    torch.testing.assert_close(first, second)


def test_where_there_is_a_choice():
    both = ("channels_last", "contiguous")
    images_by_convolution = posterior()
    assert images_by_convolution.layouts() == both
    assert images_by_convolution.layout == "channels_last"
    assert sorted(images_by_convolution.micro_batch_sizes()) == [64, 128, 256, 512, 1024]
    assert images_by_convolution.micro_batch_size == images_by_convolution.micro_batch_sizes()[0]

    given = posterior(micro_batch_size=7)
    assert (given.layouts(), given.micro_batch_sizes(), given.micro_batch_size) == (both, (), 7)
    together = posterior(chain_batching="vmap")
    assert (together.layouts(), together.micro_batch_sizes()) == ((), ())
    assert posterior(dtype=torch.float64).layouts() == (), "oneDNN convolves in float32"

    x, y = torch.randn(20, 6), torch.randint(0, 3, (20,))
    dense = hmc_fast.Posterior(mlp(6, (8,), 3), (x, y), chain_batching="loop")
    assert (dense.layouts(), dense.micro_batch_sizes(), dense.layout) == ((), (), None)
    series = nn.Sequential(nn.Conv1d(1, 3, 6), nn.Flatten())
    assert hmc_fast.Posterior(series, (x[:, None], y)).layouts() == ()


@pytest.mark.parametrize(
    "flatten",
    [lambda h: h.view(len(h), -1), lambda h: h.as_strided((len(h), 45), (45, 1))],
    ids=["raises", "differs"],
)
def test_a_model_that_another_layout_would_break_keeps_its_own(flatten):
    target = posterior(model=Strided(flatten=flatten))
    assert target.layouts() == ()
    assert target.layout is None
    target.potential_and_grad(target.initial("prior", 1, 0))


def test_an_unknown_layout_is_refused():
    with pytest.raises(hmc_fast.UserError, match="layout 'NHWC' is unknown"):
        posterior().prepared(path="eager", layout="NHWC")
    density = hmc_fast.Density(lambda t: -t.square().sum(), 3)
    with pytest.raises(hmc_fast.UserError, match="layout 'contiguous' must be None for a Density"):
        density.prepared(path="eager", layout="contiguous")


def test_lenet_is_the_same_up_to_rounding():
    x, y = torch.rand(70, 1, 28, 28), torch.randint(0, 10, (70,))
    target = hmc_fast.Posterior(lenet5(), (x, y))
    theta = target.initial("model", 1, 0)
    results = [
        target.prepared(path="eager", layout=layout, micro_batch_size=size).potential_and_grad(theta)
        for layout, size in (("contiguous", 64), ("channels_last", 256))
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-3)
