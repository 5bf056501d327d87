"""Any module as a function of one flat row, and refusals with the cure in the message."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import hmc_fast
from hmc_fast.targets.flat_module import FlatModel
from hmc_fast.targets.validation import check_model


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def network():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def test_outputs_and_gradient_match_the_module():
    model, x = network(), torch.randn(6, 5, dtype=torch.float64)
    flat = FlatModel(model)
    assert flat.num_params == sum(p.numel() for p in model.parameters())
    row = flat.initial.clone().requires_grad_()
    out = flat(row, x)
    torch.testing.assert_close(out, model(x))
    (grad,) = torch.autograd.grad(out.square().sum(), row)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    torch.testing.assert_close(grad, torch.cat([g.reshape(-1) for g in expected]))


def test_the_callers_module_is_never_changed():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flat = FlatModel(model)
    flat(torch.zeros(flat.num_params, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_tied_parameters_count_once_and_move_together():
    model = Tied()
    flat = FlatModel(model)
    assert flat.num_params == 16
    row, x = torch.randn(16), torch.randn(2, 4)
    weight = row.view(4, 4)
    torch.testing.assert_close(flat(row, x), torch.tanh(x @ weight.T) @ weight.T)


def test_frozen_parameters_and_buffers_are_constants():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    model[1].running_mean.fill_(2.0)
    model[0].requires_grad_(False)
    flat = FlatModel(model)
    assert flat.names == ["1.weight", "1.bias", "2.weight", "2.bias"]
    x = torch.randn(4, 3)
    torch.testing.assert_close(flat(flat.initial, x), model(x))


def test_flatten_and_set_weights_are_inverse():
    flat, other = FlatModel(network()), network()
    row = torch.randn(flat.num_params, dtype=torch.float64)
    flat.set_weights(other, row)
    assert torch.equal(flat.flatten(other.state_dict()), row)
    with pytest.raises(hmc_fast.UserError, match=r"lack parameter '0.weight'"):
        flat.flatten({})
    with pytest.raises(hmc_fast.UserError, match="another model"):
        flat.flatten(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).state_dict())


def test_fan_in_and_groups():
    flat = FlatModel(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 2)))
    fan = flat.fan_in()
    assert fan[: 4 * 18].unique().tolist() == [18.0]
    assert fan[4 * 18 : 4 * 18 + 4].unique().tolist() == [1.0]
    assert flat.matching("*.bias") == [1, 3]
    with pytest.raises(hmc_fast.UserError, match=r"'\*\.gain' matches no parameter: the model has 0\.weight"):
        flat.matching("*.gain")


class Sizes(TorchDispatchMode):
    """Counts operations whose result is a new tensor of a given size."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        whole = isinstance(out, torch.Tensor) and out.numel() == self.numel
        self.count += whole and not func.is_view
        return out


@pytest.mark.parametrize("depth", [2, 12])
def test_the_gradient_comes_back_in_one_piece(depth):
    """Slices would make a zero-filled copy of the whole buffer for every parameter."""
    flat = FlatModel(nn.Sequential(*[nn.Linear(6, 6) for _ in range(depth)]))
    row = flat.initial.clone().requires_grad_()
    value = flat(row, torch.randn(2, 6)).sum()
    with Sizes(flat.num_params) as sizes:
        torch.autograd.grad(value, row)
    assert sizes.count == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
            r"BatchNorm1d at '1'.*FRN or GroupNorm, or call model.eval",
        ),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)).eval(), "statistics of the batch"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)),
            r"Dropout at '1' drops activations .*call model.eval\(\)",
        ),
        (nn.MultiheadAttention(4, 2, dropout=0.2), "drops activations at random"),
        (nn.LazyLinear(3), "is lazy and has no shape yet: run the model once"),
        (nn.Linear(2, 2).half(), r"dtype torch.float16, .*call model.float"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "mixes float32 and float64"),
        (nn.ReLU(), "nothing to sample"),
        (nn.Linear(2, 2).requires_grad_(False), "nothing to sample"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refusals_name_the_cure(model, message):
    with pytest.raises(hmc_fast.UserError, match=message):
        check_model(model)


def test_dropout_that_is_switched_off_is_accepted():
    check_model(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval())
    check_model(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))


def test_channels_last_is_for_models_that_accept_it():
    def flat(*last):
        return FlatModel(nn.Sequential(nn.Conv2d(2, 4, 3), *last))

    class View(nn.Module):
        def forward(self, x):
            return x.view(len(x), -1)

    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    images = torch.randn(2, 2, 8, 8)
    assert flat(nn.Flatten(), nn.Linear(144, 2)).allows_channels_last(images)
    assert not flat(View(), nn.Linear(144, 2)).allows_channels_last(images)
    assert not flat(Branch()).allows_channels_last(images)
    assert not FlatModel(network()).allows_channels_last(torch.randn(2, 5))
