"""Models and data that users bring: they sample, predict and score, or one sentence says why not."""

import functools
import types
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import hmc_fast

N = 30


def normals(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


VECTORS, SEQUENCES, IMAGES = normals(N, 6), normals(N, 5, 8), normals(N, 3, 12, 12)
TOKENS = torch.arange(N * 5).reshape(N, 5) % 9
LABELS, NUMBERS = torch.arange(N) % 3, normals(N)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


class Calls(nn.Module):
    """Two layers, and any function of them and the input as forward."""

    def __init__(self, forward, outputs=3, **parts):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(8, outputs), forward
        for name, part in parts.items():
            setattr(self, name, part)
        self.register_buffer("number", torch.zeros(1))

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 3)

    def forward(self, x):
        x = self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.head(x.mean(1))


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)


def convolutional(*norm):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), *norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.head((x + F.relu(self.norm(self.conv(x)))).mean((2, 3)))


def tied():
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def mlp(**options):
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), **options)


def frozen_but_the_last():
    model = mlp().requires_grad_(False)
    model[2].requires_grad_(True)
    return model


def half_precision_backbone():
    backbone = nn.Linear(6, 8).bfloat16().requires_grad_(False)
    return Calls(lambda m, x: m.b(torch.tanh(m.backbone(x.bfloat16())).float()), backbone=backbone)


class LoRA(nn.Module):
    """A frozen layer and a correction of rank 2 that begins at 0."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 3).requires_grad_(False)
        self.down, self.up = nn.Parameter(normals(2, 6) / 3), nn.Parameter(torch.zeros(3, 2))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


MODELS = {
    "linear": (lambda: nn.Linear(6, 3), VECTORS),
    "sequential": (mlp, VECTORS),
    "float64": (lambda: mlp().double(), VECTORS),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)), VECTORS),
    "batch norm in eval mode": (lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)).eval(), VECTORS),
    "dropout in eval mode": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3)).eval(), VECTORS),
    "rrelu in eval mode": (lambda: nn.Sequential(nn.Linear(6, 8), nn.RReLU(), nn.Linear(8, 3)).eval(), VECTORS),
    "spectral norm in eval mode": (lambda: parametrizations.spectral_norm(nn.Linear(6, 3)).eval(), VECTORS),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 3)), VECTORS),
    "tied weights": (tied, VECTORS),
    "frozen but the last layer": (frozen_but_the_last, VECTORS),
    "a frozen backbone in bfloat16": (half_precision_backbone, VECTORS),
    "low-rank correction": (LoRA, VECTORS),
    "convolution": (convolutional, IMAGES),
    "convolution, group norm": (lambda: convolutional(nn.GroupNorm(2, 8)), IMAGES),
    "convolution, batch norm in eval mode": (lambda: convolutional(nn.BatchNorm2d(8)).eval(), IMAGES),
    "residual": (Residual, IMAGES),
    "lstm": (lambda: Recurrent(nn.LSTM), SEQUENCES),
    "gru": (lambda: Recurrent(nn.GRU), SEQUENCES),
    "rnn": (lambda: Recurrent(nn.RNN), SEQUENCES),
    "attention": (lambda: Encoder(nn.MultiheadAttention(8, 2, batch_first=True)), SEQUENCES),
    "attention in eval mode": (lambda: Encoder(nn.MultiheadAttention(8, 2, batch_first=True)).eval(), SEQUENCES),
    "transformer in eval mode": (lambda: Encoder(nn.TransformerEncoder(encoder_layer(), 2)).eval(), SEQUENCES),
    "transformer without dropout": (lambda: Encoder(encoder_layer(dropout=0.0)), SEQUENCES),
    "embedding of integers": (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)),
        TOKENS,
    ),
    "outputs as .logits": (lambda: Calls(lambda m, x: types.SimpleNamespace(logits=m.b(m.a(x)), loss=0)), VECTORS),
    "outputs as ['logits']": (lambda: Calls(lambda m, x: {"logits": m.b(m.a(x))}), VECTORS),
    "outputs in a tuple": (lambda: Calls(lambda m, x: (m.b(m.a(x)), "more")), VECTORS),
    "inputs by name": (
        lambda: Calls(lambda m, x, mask=None: m.b(torch.tanh(m.a(x)) * mask)),
        {"mask": (normals(N, 8) > 0).float(), "x": VECTORS},
    ),
    "inputs by position": (lambda: Calls(lambda m, x, y: m.b(m.a(x) + m.a(y))), (VECTORS, VECTORS + 1)),
}


def sampled(posterior, inputs, labels, **options):
    """A few draws of HMC, their predictions at the training inputs, and those of `predict`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's own about vmap, among others
        run = hmc_fast.run(
            posterior,
            hmc_fast.HMC(1e-3, num_leapfrog=2),
            **{"chains": 2, "burn_in": 1, "draws": 3, "progress": False, "init": "model"} | options,
            test=inputs if labels is None else (inputs, labels),
            draw_dtype=torch.float32,
        )
        again = run.predict(inputs, batch_size=7)
    return run, again


@pytest.mark.parametrize("name", MODELS)
def test_a_model_samples_predicts_and_scores(name):
    make, inputs = MODELS[name]
    model = seeded(make)
    run, again = sampled(hmc_fast.Posterior(model, (inputs, LABELS)), inputs, LABELS)
    np.testing.assert_allclose(again.probs, run.test.probs, atol=1e-4)
    assert 0 <= again.accuracy(LABELS) <= 1
    assert np.isfinite(again.nll(LABELS))
    # all that was sampled are the model's parameters that require a gradient
    assert run.target.num_params == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not isinstance(inputs, dict | tuple):
        with torch.no_grad():
            returned = model.double()(inputs.double()) if name == "float64" else model(inputs)
        found = run.target.outputs(run.target.initial("model", 1, 0), run.target.inputs(inputs))[0]
        if isinstance(returned, torch.Tensor):
            torch.testing.assert_close(found, returned, rtol=1e-4, atol=1e-4)


class Pairs(Dataset):
    def __init__(self, *columns, noise=False):
        self.columns, self.noise = columns, noise

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        x, *rest = (column[index] for column in self.columns)
        return (x + torch.rand(()) if self.noise else x, *rest)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(VECTORS, LABELS, strict=True)


FRAME = pd.DataFrame(VECTORS.numpy(), columns=list("abcdef"))
DATA = {
    "tensors": (VECTORS, LABELS),
    "numpy": (VECTORS.numpy(), LABELS.numpy()),
    "numpy in float64, not contiguous": (
        VECTORS.numpy().astype(np.float64)[:, ::-1].copy()[:, ::-1],
        LABELS.numpy(),
    ),
    "pandas": (FRAME, pd.Series(LABELS.numpy())),
    "pandas with labels in a column": (FRAME, pd.DataFrame({"y": LABELS.numpy()})),
    "lists": (VECTORS.tolist(), LABELS.tolist()),
    "a pair as a list": [VECTORS, LABELS],
    "labels in a column": (VECTORS, LABELS[:, None]),
    "labels of 32 bits": (VECTORS, LABELS.int()),
    "labels of 8 bits": (VECTORS, LABELS.to(torch.uint8)),
    "TensorDataset": TensorDataset(VECTORS, LABELS),
    "a Dataset of tensors and numbers": Pairs(VECTORS, LABELS.tolist()),
    "a Dataset of arrays": Pairs(VECTORS.numpy(), LABELS.numpy()),
}


@pytest.mark.parametrize("name", DATA)
def test_data_of_any_kind_give_the_same_draws(name):
    expected, _ = sampled(hmc_fast.Posterior(seeded(mlp), (VECTORS, LABELS)), VECTORS, LABELS)
    posterior = hmc_fast.Posterior(seeded(mlp), DATA[name])
    inputs, labels = (VECTORS, LABELS) if isinstance(DATA[name], Dataset) else DATA[name]
    run, again = sampled(posterior, inputs, labels)
    np.testing.assert_array_equal(run.draws, expected.draws)
    assert again.accuracy(labels) == expected.test.accuracy(LABELS.numpy())
    assert again.brier(labels) == pytest.approx(expected.test.brier(LABELS), abs=1e-5)


REGRESSIONS = {
    "numbers": ("gaussian", 1, NUMBERS),
    "numbers in a column": ("gaussian", 1, NUMBERS[:, None]),
    "heteroscedastic": ("heteroscedastic", 2, NUMBERS[:, None].numpy()),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_scores(name):
    likelihood, outputs, y = REGRESSIONS[name]
    model = seeded(lambda: nn.Linear(6, outputs))
    run, again = sampled(hmc_fast.Posterior(model, (VECTORS, y), likelihood), VECTORS, y)
    mean = run.test.mean
    assert mean.shape == (N,)
    assert again.rmse(y) == pytest.approx(np.sqrt(np.mean((mean - NUMBERS.numpy()) ** 2)), rel=1e-4)


def test_labels_of_two_classes_in_a_column():
    y = (LABELS > 0).float()[:, None]
    run, again = sampled(hmc_fast.Posterior(seeded(lambda: nn.Linear(6, 1)), (VECTORS, y), "bernoulli"), VECTORS, y)
    assert again.accuracy(y) == np.mean(run.test.probs.argmax(1) == y[:, 0].numpy())


def test_outputs_of_any_shape_with_a_likelihood_of_ones_own():
    """One class for each of five places in a sequence."""
    places = TOKENS % 3

    def log_likelihood(outputs, y):
        return -F.cross_entropy(outputs.transpose(1, 2), y, reduction="none").sum(-1)

    posterior = hmc_fast.Posterior(seeded(lambda: nn.Linear(8, 3)), (SEQUENCES, places), log_likelihood)
    run, again = sampled(posterior, SEQUENCES, None, init="prior", draws=4)
    draws = np.stack(
        [posterior.outputs(torch.from_numpy(np.array(d)), posterior.inputs(SEQUENCES)).numpy() for d in run.draws]
    )
    assert run.test.mean.shape == (N, 5, 3)
    np.testing.assert_allclose(run.test.mean, draws.mean((0, 1)), atol=1e-4)
    np.testing.assert_allclose(run.test.sd, draws.std((0, 1)), atol=1e-3)
    np.testing.assert_allclose(again.chain_mean, draws.mean(0), atol=1e-4)


def test_several_outputs_through_output():
    model = seeded(lambda: Calls(lambda m, x: {"mean": m.b(m.a(x)), "other": x}, outputs=1))
    posterior = hmc_fast.Posterior(model, (VECTORS, NUMBERS), "gaussian", output=lambda returned: returned["mean"])
    run, again = sampled(posterior, VECTORS, NUMBERS)
    assert again.rmse(NUMBERS) == pytest.approx(run.test.rmse(NUMBERS), rel=1e-3)


def test_chains_begin_at_a_state_dict():
    model = seeded(mlp)
    posterior = hmc_fast.Posterior(model, (VECTORS, LABELS))
    start = posterior.initial({name: tensor + 1 for name, tensor in model.state_dict().items()}, 2, 0)
    torch.testing.assert_close(start, posterior.initial("model", 2, 0) + 1)


def test_what_becomes_of_the_users_data_changes_nothing():
    x, y = VECTORS.clone(), LABELS.clone()
    posterior = hmc_fast.Posterior(seeded(mlp), (x, y))
    before, _ = sampled(posterior, VECTORS, None)
    x.zero_()
    y.zero_()
    after, _ = sampled(posterior, VECTORS, None)
    np.testing.assert_array_equal(before.draws, after.draws)


def test_a_check_leaves_generators_and_the_model_as_they_were():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.RReLU(), nn.Linear(8, 3)))
    state = torch.get_rng_state()
    with pytest.raises(hmc_fast.UserError):
        hmc_fast.Posterior(model, (VECTORS, LABELS))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


def test_softmaxed_outputs_are_told():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(-1)))
    with pytest.warns(UserWarning, match="outputs are probabilities"):
        hmc_fast.Posterior(model, (VECTORS, LABELS))


# --- refusals ---


def counts(model, x):
    model.number += 1
    return model.b(model.a(x))


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def hidden_by_zeros():
    model = nn.Sequential(nn.Linear(6, 8), Centred(), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)
    return model


def nan_for(outputs, y):
    return torch.where(y >= float(NUMBERS.max()), torch.nan, -((outputs[:, 0] - y) ** 2))


def posterior(model=None, data=(VECTORS, LABELS), *args, **options):
    return hmc_fast.Posterior(nn.Linear(6, 3) if model is None else model, data, *args, **options)


def regression(likelihood, y=NUMBERS, outputs=1):
    return posterior(nn.Linear(6, outputs), (VECTORS, y), likelihood)


def run(target=None, sampler=None, **options):
    options = {"chains": 2, "burn_in": 1, "draws": 2, "progress": False} | options
    sampler = hmc_fast.HMC(1e-3, num_leapfrog=2) if sampler is None else sampler
    return hmc_fast.run(posterior() if target is None else target, sampler, **options)


def finished():
    return run(test=(VECTORS, LABELS))


SGHMC = functools.partial(hmc_fast.SGHMC, friction=1.0)
REFUSALS = {
    # densities that are no function
    "functional dropout": (
        lambda: posterior(Calls(lambda m, x: m.b(F.dropout(m.a(x))))),
        "Calls at 'the top level' gives other outputs for the same inputs.*model.eval",
    ),
    "noise": (lambda: posterior(Calls(lambda m, x: m.b(m.a(x) + torch.randn(8)))), "gives other outputs"),
    "rrelu": (
        lambda: posterior(nn.Sequential(nn.Linear(6, 8), nn.RReLU(), nn.Linear(8, 3))),
        "RReLU at '1' gives other outputs",
    ),
    "a counter in a buffer": (lambda: posterior(Calls(counts)), "buffer 'number' changes with every call"),
    "spectral norm": (
        lambda: posterior(nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 3)))),
        "buffer '0.parametrizations.weight.0._u' changes.*model.eval",
    ),
    "centring over the batch": (
        lambda: posterior(nn.Sequential(Centred(), nn.Linear(6, 3))),
        "Centred at '0' makes the output for one example depend on the others",
    ),
    "coupling behind a layer of zeros": (lambda: posterior(hidden_by_zeros()), "Centred at '1'"),
    "batch norm": (lambda: posterior(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))), "BatchNorm1d at '0'.*FRN"),
    "dropout": (
        lambda: posterior(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3))),
        "Dropout at '1' drops activations at random",
    ),
    "transformer with dropout": (
        lambda: posterior(Encoder(encoder_layer()), (SEQUENCES, LABELS)),
        "drops activations at random",
    ),
    # models
    "a class": (lambda: posterior(nn.Linear), "model is the class Linear"),
    "a function as model": (lambda: posterior(lambda x: x), "model is a function"),
    "complex": (lambda: posterior(nn.Linear(6, 3, dtype=torch.complex64)), "dtype torch.complex64"),
    "half precision": (lambda: posterior(nn.Linear(6, 3).half()), r"call model.float\(\)"),
    "lazy": (lambda: posterior(nn.LazyLinear(3)), "is lazy"),
    "TorchScript": (lambda: posterior(torch.jit.trace(nn.Linear(6, 3), VECTORS)), "TorchScript"),
    "all frozen": (lambda: posterior(nn.Linear(6, 3).requires_grad_(False)), "nothing to sample"),
    "no outputs found": (lambda: posterior(Calls(lambda m, x: {"scores": m.b(m.a(x))})), "say which with output="),
    "another width": (lambda: posterior(nn.Linear(5, 3)), r"fails on an example of shape \(6,\)"),
    # likelihoods
    "a loss": (lambda: posterior(likelihood=nn.CrossEntropyLoss()), "CrossEntropyLoss is a loss"),
    "a loss per example": (lambda: posterior(likelihood=nn.CrossEntropyLoss(reduction="none")), "is a loss"),
    "a loss function": (lambda: posterior(likelihood=F.cross_entropy), "cross_entropy is a loss"),
    "a loss class": (lambda: posterior(likelihood=nn.MSELoss), "MSELoss is a loss"),
    "a likelihood's class": (
        lambda: posterior(likelihood=hmc_fast.Categorical),
        "class Categorical: give an object",
    ),
    "a number as likelihood": (lambda: posterior(likelihood=3), "likelihood is a int"),
    "an unknown name": (lambda: posterior(likelihood="normal"), "likelihood 'normal' is unknown"),
    "broadcasting": (
        lambda: regression(lambda outputs, y: -((outputs - y) ** 2).sum(-1)),
        r"outputs of shape \(3, 1\) and y of shape \(3,\) broadcast",
    ),
    "one value for all": (lambda: regression(lambda outputs, y: -((outputs[:, 0] - y) ** 2).sum()), "per example"),
    "no tensor": (lambda: regression(lambda outputs, y: 0.0), "returned a float"),
    "three labels of two": (lambda: regression("bernoulli", LABELS), r"ranges over 0..2"),
    "two logits for one": (lambda: regression("bernoulli", LABELS > 0, outputs=2), "fails on an example"),
    "labels beyond the classes": (lambda: posterior(data=(VECTORS, LABELS + 1)), r"integers in 0..2"),
    "one-hot labels": (lambda: posterior(data=(VECTORS, F.one_hot(LABELS))), r"y has shape \(30, 3\)"),
    "real labels": (lambda: posterior(data=(VECTORS, NUMBERS)), "labels must be integers"),
    # data
    "one tensor": (lambda: posterior(data=VECTORS), "data is a Tensor"),
    "three tensors": (lambda: posterior(data=(VECTORS, LABELS, LABELS)), "data is 3 things"),
    "a DataLoader": (lambda: posterior(data=DataLoader(TensorDataset(VECTORS, LABELS))), "loader.dataset"),
    "a stream": (lambda: posterior(data=Stream()), "IterableDataset"),
    "augmentation": (lambda: run(target=posterior(data=Pairs(VECTORS, LABELS, noise=True))), "augmentation"),
    "a Dataset of triples": (lambda: posterior(data=Pairs(VECTORS, LABELS, LABELS)), r"must be pairs \(x, y\)"),
    "an empty Dataset": (lambda: posterior(data=Pairs(VECTORS[:0], LABELS[:0])), "Dataset is empty"),
    "ragged lists": (lambda: posterior(data=([[1.0], [1.0, 2.0]], [0, 1])), "X is no array"),
    "text": (lambda: posterior(data=(np.array([["a"]] * N), LABELS)), "X holds <U1.*encoded"),
    "objects": (lambda: posterior(data=(pd.DataFrame({"a": ["x"] * N}), LABELS)), "X holds.*encoded"),
    "X and y exchanged": (lambda: posterior(data=(LABELS, VECTORS)), r"y has shape \(30, 6\)"),
    "lengths": (lambda: posterior(data=(VECTORS, LABELS[:-1])), "X has 30 examples but y has 29"),
    "lengths by name": (
        lambda: posterior(data=({"x": VECTORS, "mask": VECTORS[1:]}, LABELS)),
        r"X\['mask'\] has 29 examples",
    ),
    "no data": (lambda: posterior(data=(VECTORS[:0], LABELS[:0])), "data are empty"),
    "NaN": (lambda: posterior(data=(VECTORS / 0 * 0, LABELS)), "X contains NaN or infinity in row 0"),
    "integers for reals": (lambda: posterior(data=(TOKENS[:, :1].expand(N, 6), LABELS)), r"need X.float\(\)"),
    # priors and the rest of the posterior
    "a number as prior": (lambda: posterior(prior=0.1), r"prior is a float.*Normal\(variance=0.1\)"),
    "a dict as prior": (lambda: posterior(prior={"weight": 1.0}), "prior is a dict"),
    "a class as prior": (lambda: posterior(prior=hmc_fast.Normal), "prior is the class Normal"),
    "a negative variance": (lambda: hmc_fast.Normal(-1.0), "prior variance -1.0 must be a positive number"),
    "text for a variance": (lambda: hmc_fast.Normal("1"), "prior variance '1' must be a positive number"),
    "half a micro-batch": (lambda: posterior(micro_batch_size=2.5), "micro batch size 2.5 must be a whole number"),
    "a device that is not here": (lambda: posterior(device="cuda:99"), "device 'cuda:99' does not exist here"),
    "no temperature": (lambda: posterior(temperature=0), "temperature 0 must be a positive number"),
    "a density that is a number": (lambda: hmc_fast.Density(3.0, 2), "fn is a float"),
    # runs
    "arguments exchanged": (
        lambda: hmc_fast.run(hmc_fast.HMC(0.1, num_leapfrog=1), posterior()),
        "target is a HMC",
    ),
    "a bare model": (lambda: run(nn.Linear(6, 3)), "target is a Linear"),
    "a sampler's class": (lambda: run(sampler=hmc_fast.HMC), "sampler is the class HMC"),
    "chains": (lambda: run(chains=2.0), "chains 2.0 must be a whole number"),
    "no chains": (lambda: run(chains=0), "chains 0 must be at least 1"),
    "draws": (lambda: run(draws=4.5), "draws 4.5 must be a whole number"),
    "thin": (lambda: run(thin=True), "thin True must be a whole number"),
    "no seed": (lambda: run(seed=None), "seed None must be a whole number"),
    "init": (lambda: run(init=3), r"init \(int\) is unknown"),
    "init of another model": (lambda: run(init=nn.Linear(5, 3).state_dict()), "belong to another model"),
    "device": (lambda: run(device="cuda:99"), "device 'cuda:99'"),
    "text for a step size": (lambda: hmc_fast.HMC("1", num_leapfrog=1), "step size '1' must be a positive number"),
    "half a step": (lambda: hmc_fast.HMC(0.1, num_leapfrog=2.5), "leapfrog steps 2.5 must be a whole number"),
    "half an example": (lambda: SGHMC(0.1, batch_size=2.5), "batch size 2.5 must be a whole number"),
    "more than all": (lambda: run(sampler=SGHMC(0.1, batch_size=99)), "batch size 99 must lie between"),
    "test inputs of another width": (lambda: run(test=VECTORS[:, 1:]), r"shape \(5,\) per example"),
    "test labels missing": (lambda: run(test=(VECTORS, LABELS[1:])), "30 test inputs but 29 test labels"),
    "test inputs as text": (lambda: run(test="x"), "the test inputs is a str"),
    "a likelihood that is NaN": (
        lambda: run(regression(nan_for)),
        f"example {int(NUMBERS.argmax())} is nan at the start of chain 0",
    ),
    "a likelihood that is NaN, in minibatches": (
        lambda: run(regression(nan_for), SGHMC(1e-3, batch_size=N, steps_per_iteration=1)),
        f"example {int(NUMBERS.argmax())} is nan",
    ),
    "a density undefined at the start": (
        lambda: run(hmc_fast.Density(lambda theta: torch.log(theta).sum(), 9)),
        "the log density is nan at the start of chain 0",
    ),
    # predictions
    "inputs of another width": (lambda: finished().predict(VECTORS[:, 1:]), r"shape \(5,\) per example"),
    "scores of other labels": (lambda: finished().test.accuracy(LABELS[1:]), r"labels have shape \(29,\)"),
    "scores of one-hot labels": (lambda: finished().test.nll(F.one_hot(LABELS)), r"labels have shape \(30, 3\)"),
    "scores beyond the classes": (lambda: finished().test.brier(LABELS + 1), r"range over 1..3"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_one_sentence_that_names_the_cause(name, recwarn):
    call, message = REFUSALS[name]
    with pytest.raises(hmc_fast.UserError, match=message) as caught:
        call()
    text = str(caught.value)
    assert len(text) < 450
    assert "\n" not in text
    assert not [str(w.message) for w in recwarn if "performance drop" in str(w.message)]
