"""Models: sizes, seeds, normalisations, and that every one of them can be sampled."""

import sys

import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.datasets import Dataset
from hmc_fast.errors import UserError
from hmc_fast.models import MODELS, build, lenet5, mlp, resnet20, uci_mlp
from hmc_fast.models.norms import ACTIVATIONS, FilterResponseNorm, activation_layer, norm_layer


def data(*shape, classes=10, name="made"):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, *shape, generator=generator)
    y = torch.arange(12) % classes if classes else torch.randn(12, generator=generator)
    return Dataset(name, x, y, x, y, "classification" if classes else "regression", num_classes=classes)


def resnet20_size(width, channels):
    """Counted by hand: convolutions with biases, each followed by a scale and a shift per channel."""

    def unit(inputs, outputs, kernel=3):
        return outputs * (inputs * kernel**2 + 1) + 2 * outputs

    stages = sum(5 * unit(w, w) for w in (2 * width, 4 * width)) + 6 * unit(width, width)
    widening = sum(unit(w, 2 * w) + unit(w, 2 * w, 1) for w in (width, 2 * width))
    return unit(channels, width) + stages + widening + 10 * (4 * width + 1)


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "dataset", "options", "count"),
    [
        ("lenet", data(1, 28, 28), {}, 61_706),
        ("lenet", data(3, 32, 32), {}, 62_006),
        ("lenet", data(1, 16, 16), {}, 156 + 2_416 + 16 * 120 + 120 + 10_164 + 850),
        ("mlp", data(64), {}, 64 * 50 + 50 + 50 * 50 + 50 + 50 * 10 + 10),
        ("mlp", data(64), {"hidden": ()}, 650),
        ("mlp", data(64), {"width": 3}, 64 * 3 + 3 + 3 * 3 + 3 + 3 * 10 + 10),
        ("uci-mlp", data(8, classes=0), {}, 8 * 50 + 50 + 50 * 2 + 2),
        ("resnet20", data(1, 28, 28), {}, resnet20_size(8, 1)),
        ("resnet20", data(1, 28, 28), {"norm": "batch"}, resnet20_size(8, 1)),
        ("resnet20", data(3, 32, 32), {"width": 16}, resnet20_size(16, 3)),
    ],
)
def test_number_of_parameters(name, dataset, options, count):
    assert size(build(name, dataset, **options)) == count


def test_resnet20_has_twenty_layers():
    model = resnet20()
    weights = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([m for m in weights if not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))]) == 20
    assert all(m.bias is not None for m in weights)


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_same_weights_and_the_global_generator_is_left_alone(name):
    dataset = data(8, classes=0) if name == "uci-mlp" else data(1, 28, 28)
    state = torch.get_rng_state()
    first, again, other = (build(name, dataset, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


# --- filter response normalisation ---


def test_frn_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=generator)
    norm = FilterResponseNorm(3, eps=1e-2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -3.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
    found = norm(x)
    for example in range(2):
        for channel in range(3):
            plane = x[example, channel].double()
            nu2 = (plane**2).sum() / 20
            expected = norm.weight[channel] * plane / torch.sqrt(nu2 + 1e-2) + norm.bias[channel]
            torch.testing.assert_close(found[example, channel].double(), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["frn", "group", "none"])
def test_an_example_does_not_depend_on_the_others(norm):
    model = resnet20(norm=norm, width=8)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    changed = x.clone()
    changed[1:] *= 100
    torch.testing.assert_close(model(x)[0], model(changed)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


def test_frn_at_zero_is_finite():
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    FilterResponseNorm(2)(x).sum().backward()
    assert torch.isfinite(x.grad).all()


# --- sampling ---


SAMPLED = {
    "mlp": (lambda: mlp(6, (5,), 4), (6,)),
    "uci-mlp": (lambda: uci_mlp(6), (6,)),
    "lenet": (lambda: lenet5(1, 4, 16), (1, 16, 16)),
    "resnet20 frn": (lambda: resnet20(4, width=2, activation="silu"), (1, 8, 8)),
    "resnet20 group": (lambda: resnet20(4, width=2, norm="group"), (1, 8, 8)),
    "resnet20 none": (lambda: resnet20(4, width=2, norm="none"), (1, 8, 8)),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_every_model_works_under_functional_call_and_vmap(name):
    make, shape = SAMPLED[name]
    models = [make() for _ in range(2)]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    stacked = {
        key: torch.stack([dict(m.named_parameters())[key].detach() for m in models])
        for key, _ in models[0].named_parameters()
    }
    batched = torch.func.vmap(lambda p: torch.func.functional_call(models[0], p, (x,)))(stacked)
    torch.testing.assert_close(batched, torch.stack([m(x) for m in models]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_can_be_built(activation):
    assert mlp(3, (4,), 2, activation)(torch.zeros(1, 3)).shape == (1, 2)


@pytest.mark.parametrize("norm", ["frn", "group", "none"])
def test_a_posterior_takes_what_can_be_sampled(norm):
    dataset = data(1, 8, 8, classes=4)
    model = build("resnet20", dataset, norm=norm, width=2)
    assert hmc_fast.Posterior(model, (dataset.x_train, dataset.y_train)).num_params == size(model)


def test_a_posterior_refuses_batchnorm_and_says_the_cure():
    dataset = data(1, 8, 8, classes=4)
    model = build("resnet20", dataset, norm="batch", width=2)
    assert model.training
    assert int(model.stem[1].num_batches_tracked) == 0  # looking at the shapes left no trace
    with pytest.raises(UserError, match=r"BatchNorm2d at 'stem.1'.*use FRN or GroupNorm, or call model.eval\(\)"):
        hmc_fast.Posterior(model, (dataset.x_train, dataset.y_train))
    assert hmc_fast.Posterior(model.eval(), (dataset.x_train, dataset.y_train)).num_params == size(model)


# --- mistakes ---


@pytest.mark.parametrize(
    ("name", "dataset", "options", "match"),
    [
        ("alexnet", data(64), {}, "model 'alexnet' is unknown: use one of mlp, lenet"),
        ("lenet", data(64), {}, r"'lenet' needs images, but made has examples of shape \(64,\)"),
        ("resnet20", data(8, 8), {}, "'resnet20' needs images"),
        ("lenet", data(1, 28, 32), {}, "needs square images of at least 16 x 16 pixels, not 28 x 32"),
        ("lenet", data(1, 15, 15), {}, "needs square images of at least 16 x 16 pixels, not 15 x 15"),
        ("uci-mlp", data(64), {}, r"returns outputs of shape \(1, 2\) .* it must return \(1, 10\)"),
        ("mlp", data(64), {"activation": "sine"}, "activation 'sine' is unknown: use one of relu"),
        ("resnet20", data(1, 8, 8), {"norm": "layer"}, "norm 'layer' is unknown: use frn, group, batch or none"),
        ("resnet20", data(1, 8, 8), {"width": 0}, "width 0 must be at least 1"),
        ("mlp", data(64), {"norm": "frn"}, "norm 'frn' is not an option of model 'mlp': use it with resnet20"),
        ("lenet", data(1, 28, 28), {"width": 4}, "width 4 is not an option of model 'lenet'"),
        ("torch.nn:nothing", data(64), {}, "has no 'nothing'"),
        ("torch.nn:Module", data(64), {}, "does not accept examples .* missing the required"),
        ("torch.nn:Bilinear", data(64), {}, "failed: TypeError"),
        ("builtins:repr", data(64), {}, "returned a str: it must return a torch module"),
    ],
)
def test_mistakes(name, dataset, options, match):
    with pytest.raises(UserError, match=match) as caught:
        build(name, dataset, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("return nn.Linear(5, 10)", r"does not accept examples of shape \(64,\) from made"),
        ("return nn.Linear(64, 9)", r"outputs of shape \(1, 9\) for one example"),
        ("return nn.Sequential(nn.Linear(64, 10), nn.Flatten(0))", r"outputs of shape \(10,\)"),
        ("return nn.LSTM(64, 10)", "returns a tuple: it must return one tensor"),
        ("return nn.Bilinear(64, 64, 10)", "does not accept examples"),
        ("return 1 / 0", r"failed: ZeroDivisionError: division by zero \(users_model.py, line 3\)"),
    ],
)
def test_mistakes_in_a_users_model(body, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_model.py").write_text(f"from torch import nn\ndef make(data):\n    {body}\n")
    try:
        with pytest.raises(UserError, match=match):
            build("users_model:make", data(64))
    finally:
        sys.modules.pop("users_model", None)


def test_a_users_model_is_seeded_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_net.py").write_text(
        "from torch import nn\ndef make(data):\n    return nn.Linear(data.x_train.shape[1], data.num_classes)\n"
    )
    try:
        first, again = (build("users_net:make", data(64), seed=1) for _ in range(2))
    finally:
        sys.modules.pop("users_net", None)
    assert torch.equal(first.weight, again.weight)


def test_layers_by_name():
    assert isinstance(activation_layer("silu"), nn.SiLU)
    assert isinstance(norm_layer("batch", 8), nn.BatchNorm2d)
    assert norm_layer("group", 32).num_groups == 4
    assert norm_layer("group", 4).num_groups == 1
