"""Members trained together: torch's own steps, early stopping of each for itself, what may not change them."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import hmc_fast
from cases import classifier, data, network
from hmc_fast.compute.native import native_refusal
from hmc_fast.engine.ensemble import training
from hmc_fast.engine.ensemble.early_stopping import EarlyStopping
from hmc_fast.engine.ensemble.held_out import HeldOut, split
from hmc_fast.engine.ensemble.members import Members
from hmc_fast.engine.ensemble.optimisers import SGD, AdamW
from hmc_fast.errors import UserError

QUIET = {"progress": False, "compile": False}
SHORT = hmc_fast.Training(epochs=3, batch_size=24)


def posterior(**options):
    """In float64, without chance."""
    torch.manual_seed(3)
    return hmc_fast.Posterior(network(), data(), prior=hmc_fast.Normal(0.4), **options)


@pytest.fixture(autouse=True)
def _generator():
    with torch.random.fork_rng():
        yield


def members(target, optimiser, total, *, uses_prior=False, batch_size=4, rows=None):
    """Two of them, at the draws of the prior."""
    rows = torch.arange(2, target.num_data) if rows is None else rows
    return Members(
        target,
        target.initial("prior", 2, 0),
        optimiser,
        rows,
        batch_size=batch_size,
        learning_rate=0.05,
        total=total,
        uses_prior=uses_prior,
        seed=5,
        graph=False,
    )


# --- a step ---


@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
@pytest.mark.parametrize("optimiser", [AdamW(0.1), SGD(0.02)])
def test_steps_are_those_of_torch_on_the_same_batches(monkeypatch, optimiser, objective):
    """Ten steps, over which averages and learning rate change, of each member alone."""
    target, batches = posterior(), []
    gradient = type(target).log_likelihood_and_grad

    def noted(self, theta, grad, log_lik, indices=None):
        batches.append(indices.clone())
        gradient(self, theta, grad, log_lik, indices)

    monkeypatch.setattr(type(target), "log_likelihood_and_grad", noted)
    uses_prior = objective == "posterior"
    trained = members(target, optimiser, 15, uses_prior=uses_prior)
    start = trained.theta.clone()
    losses = torch.stack([trained.epoch() for _ in range(2)])
    assert len(batches) == 2 * trained.steps_per_epoch == 10
    assert all((rows >= 2).all() for rows in batches)

    x, y = data()
    for member in range(2):
        theta, found = start[member].clone().requires_grad_(), []
        kind = {AdamW: torch.optim.AdamW, SGD: torch.optim.SGD}[type(optimiser)]
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        torchs = kind([theta], lr=0.05, weight_decay=optimiser.weight_decay, **extra)
        cosine = torch.optim.lr_scheduler.LambdaLR(torchs, lambda k: (1 + np.cos(np.pi * k / 15)) / 2)
        for rows in batches:
            chosen = rows[member]
            loss = nn.functional.cross_entropy(target.flat(theta, x[chosen]), y[chosen])
            found.append(float(loss.detach()))
            if uses_prior:
                loss = loss + theta.square().sum() / (2 * 0.4) / len(x)
            torchs.zero_grad()
            loss.backward()
            torchs.step()
            cosine.step()
        torch.testing.assert_close(trained.theta[member], theta.detach(), rtol=1e-12, atol=1e-13)
        assert losses[:, member].tolist() == pytest.approx([np.mean(found[:5]), np.mean(found[5:])])


def test_a_prior_that_is_a_function_counts_only_where_it_is_the_objective():
    x, y = data()
    pulled = hmc_fast.Posterior(network(), (x, y), prior=lambda named: -1e4 * named["0.weight"].square().sum())
    plain = hmc_fast.Posterior(network(), (x, y))
    start = {"start": 0.3 * torch.ones(plain.num_params), "epochs": 2, "batch_size": 9}
    free, other = (hmc_fast.Training(**start).members(target, 2, **QUIET) for target in (pulled, plain))
    assert torch.equal(free, other)
    bound = hmc_fast.Training(objective="posterior", **start).members(pulled, 2, **QUIET)
    assert (bound[:, :24].abs() < free[:, :24].abs()).all()


def test_each_member_sees_each_row_once_per_epoch_in_an_order_of_its_own(monkeypatch):
    target, seen = posterior(), []
    gradient = type(target).log_likelihood_and_grad

    def noted(self, theta, grad, log_lik, indices=None):
        seen.append(indices.clone())
        gradient(self, theta, grad, log_lik, indices)

    monkeypatch.setattr(type(target), "log_likelihood_and_grad", noted)
    rows = torch.tensor([0, 3, 4, 9, 11, 12, 17, 19])
    trained = members(target, SGD(0.0), 4, batch_size=4, rows=rows)
    trained.epoch()
    first, second = torch.cat(seen, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == rows.tolist()
    assert first.tolist() != second.tolist()


# --- early stopping ---


def test_each_member_keeps_its_best_and_stops_for_itself():
    """The first improves too late, the second twice, the third is never defined."""
    losses = [[3, 5, np.nan], [4, 4, np.nan], [4, 6, np.nan], [1, 3, np.nan], [0, 7, np.nan], [0, 8, np.nan]]
    stopping, stopped = EarlyStopping(torch.full((3, 2), -1.0), patience=2), []
    for epoch, loss in enumerate(losses):
        theta = torch.tensor([[0.0, 0.1], [1.0, 1.1], [2.0, 2.1]]) + 10 * epoch
        stopping.update(theta, torch.tensor(loss, dtype=torch.float64), epoch)
        stopped.append(stopping.stopped.tolist())
    assert stopping.best[:, 0].tolist() == [0.0, 31.0, -1.0]
    assert stopping.loss.tolist() == [3.0, 3.0, np.inf]
    assert stopping.epoch[:2].tolist() == [0, 3]
    assert stopped == [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]]


def scripted(monkeypatch, losses):
    """Held-out losses of each epoch, by word; returns the parameters after each."""
    thetas = []

    def given(self, theta):
        thetas.append(theta.clone())
        return torch.tensor(losses[len(thetas) - 1], dtype=torch.float64)

    monkeypatch.setattr(HeldOut, "losses", given)
    return thetas


def test_training_ends_with_the_last_member_and_returns_the_best(monkeypatch, capsys):
    target = classifier()[0]
    thetas = scripted(monkeypatch, [[3, 9], [2, 8], [5, 7], [5, 6], [5, 6], [5, 6], [0, 0]])
    found = hmc_fast.Training(epochs=7, patience=2).members(target, 2, compile=False)
    assert len(thetas) == 6
    assert torch.equal(found, torch.stack([thetas[1][0], thetas[3][1]]))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("trained 2 members in 6 epochs (of at most 7), ")
    assert "held-out NLL 2 to 6, accuracy 0." in last


def test_without_held_out_rows_the_last_parameters_are_kept(monkeypatch):
    target = classifier()[0]
    monkeypatch.setattr(HeldOut, "losses", lambda *_: pytest.fail("nothing is held out"))
    monkeypatch.setattr(training, "Members", Remembered)
    found = hmc_fast.Training(epochs=3, held_out=0).members(target, 2, **QUIET)
    assert torch.equal(found, Remembered.last.theta)
    assert Remembered.last.steps.count == 3 * 2  # 80 examples in batches of 64


class Remembered(Members):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Remembered.last = self


@pytest.mark.parametrize(("num_data", "share", "number"), [(80, 0.1, 8), (7, 0.1, 1), (2, 0.01, 1), (80, 0, 0)])
def test_held_out_rows_are_a_function_of_the_seed(num_data, share, number):
    rows, held_out = split(num_data, share, 3)
    assert len(held_out) == number
    assert sorted([*rows.tolist(), *held_out.tolist()]) == list(range(num_data))
    assert torch.equal(split(num_data, share, 3)[1], held_out)
    if number > 1:
        assert not torch.equal(split(num_data, share, 4)[1], held_out)


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_held_out_scores_are_those_of_the_rows(micro_batch_size):
    target = posterior(micro_batch_size=micro_batch_size)
    rows, (x, y) = torch.tensor([1, 2, 5, 8, 13, 16, 19]), data()
    theta = target.initial("prior", 3, 0)
    outputs = [target.flat(row, x[rows]) for row in theta]
    held_out = HeldOut(target, rows)
    losses = [float(nn.functional.cross_entropy(out, y[rows])) for out in outputs]
    assert held_out.losses(theta).tolist() == pytest.approx(losses, rel=1e-6)
    right = [float((out.argmax(1) == y[rows]).double().mean()) for out in outputs]
    assert held_out.accuracies(theta).tolist() == pytest.approx(right)


# --- what may change the result, and what may not ---


def test_the_same_seed_gives_the_same_members_another_seed_others():
    target = classifier()[0]
    first, again, other = (SHORT.members(target, 3, seed, **QUIET) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != other).any(1).all()
    assert min((first[i] - first[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1


def test_a_member_does_not_depend_on_the_others():
    target = classifier(chain_batching="loop")[0]
    many = hmc_fast.Training(epochs=6, batch_size=36, patience=2).members(target, 4, **QUIET)
    few = hmc_fast.Training(epochs=6, batch_size=36, patience=2).members(target, 2, **QUIET)
    assert torch.equal(many[:2], few)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_traced_and_plain_members_are_the_same_and_compiled_ones_close(monkeypatch, optimizer):
    target, found = classifier()[0], {}
    settings = hmc_fast.Training(epochs=4, batch_size=16, optimizer=optimizer)
    for path in ("eager", "traced", "loop"):
        choice = training.choose(target.prepared(path=path), 3, 16, 1)
        chosen = type(choice)(target.prepared(path=path), ())
        monkeypatch.setattr(training, "choose", lambda *_, chosen=chosen, **__: chosen)
        found[path] = settings.members(target, 3, progress=False)
        monkeypatch.undo()
    assert torch.equal(found["eager"], found["traced"])
    torch.testing.assert_close(found["loop"], found["eager"], rtol=1e-3, atol=1e-4)


def test_a_step_is_compiled_as_c_where_the_gradient_is():
    target = hmc_fast.Posterior(nn.Linear(4, 3).double(), data()).prepared(path="loop")
    trained = members(target, AdamW(0.1), 15)
    trained._minibatches.advance(0)
    reason = native_refusal(trained._steps._function)
    assert reason is None, reason


def test_streamed_data_train_the_same_members():
    x, y = data()
    settings = hmc_fast.Training(epochs=3, batch_size=5, held_out=0.2)
    kept, streamed = (hmc_fast.Posterior(network(), (x.numpy(), y), stream=way) for way in (False, True))
    assert streamed.stream is not None
    torch.testing.assert_close(settings.members(kept, 2, **QUIET), settings.members(streamed, 2, **QUIET))


class Flipping(Dataset):
    """Gives other examples with every access."""

    def __init__(self):
        self.x, self.y = data()
        self.accesses = 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.accesses += 1
        return self.x[row] * (-1) ** self.accesses, self.y[row]


def test_augmented_data_can_be_trained_on():
    target = hmc_fast.Posterior(network(), Flipping())
    assert torch.isfinite(hmc_fast.Training(epochs=2).members(target, 2, **QUIET)).all()


def test_members_learn():
    target, x, y = classifier()
    found = hmc_fast.Training(epochs=40, learning_rate=0.05).members(target, 4, **QUIET)
    before, after = (
        (target.predict(theta, x).argmax(-1) == y).double().mean()
        for theta in (target.initial("fresh", 4, 0), found)
    )
    assert after > 0.6 > before + 0.1


def test_a_regression_and_a_likelihood_of_ones_own(capsys):
    x, _ = data()
    for likelihood in ("gaussian", lambda outputs, y: -(outputs[:, 0] - y).abs()):
        target = hmc_fast.Posterior(nn.Linear(4, 1).double(), (x, x.sum(1)), likelihood)
        hmc_fast.Training(epochs=2).members(target, 2, compile=False)
        assert "accuracy" not in capsys.readouterr().err


def test_global_state_and_the_users_model_are_left_alone():
    x, y = data()
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    target = hmc_fast.Posterior(model, (x, y))
    torch.manual_seed(1)
    numpys = np.random.get_state()[1].tolist()  # noqa: NPY002 (the global one)
    state = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled()
    hmc_fast.Training(epochs=2).members(target, 2, **QUIET)
    after = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled()
    assert np.random.get_state()[1].tolist() == numpys  # noqa: NPY002
    assert torch.equal(state[0], after[0])
    assert state[1:] == after[1:]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert not target.flat.module.training


# --- where they start ---


def test_fresh_networks_differ_and_do_not_depend_on_their_number():
    target = classifier()[0]
    two, three = target.initial("fresh", 2, 0), target.initial("fresh", 3, 0)
    assert torch.equal(two, three[:2])
    assert (two[0] != two[1]).all()
    assert (target.initial("fresh", 2, 1) != two).all()
    bound = 1 / np.sqrt(4)  # of nn.Linear(4, 8)
    assert 0.8 * bound < three[:, :32].abs().max() <= bound


def test_what_is_frozen_or_has_no_reset_keeps_its_value():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5).requires_grad_(False), nn.Linear(5, 3)
            self.scale = nn.Parameter(torch.tensor([2.5]))

        def forward(self, x):
            return self.last(self.first(x)) * self.scale

    model = Scaled()
    target = hmc_fast.Posterior(model, data(dtype=torch.float32))
    named = target.flat.views(target.initial("fresh", 1, 0)[0])
    assert named["scale"] == 2.5
    assert (named["last.weight"] != model.last.weight).all()
    assert torch.equal(target.flat.module.first.weight, model.first.weight)


@pytest.mark.parametrize("start", ["model", "prior", "tensor", "state_dict"])
def test_other_starts(monkeypatch, start):
    target = classifier()[0]
    row = torch.linspace(-1, 1, target.num_params)
    given = {"tensor": row, "state_dict": target.flat.views(row)}.get(start, start)
    monkeypatch.setattr(training, "Members", Remembered)
    monkeypatch.setattr(Members, "epoch", lambda self: torch.zeros(2, dtype=torch.float64))
    hmc_fast.Training(epochs=1, held_out=0, start=given).members(target, 2, **QUIET)
    assert torch.equal(Remembered.last.theta, target.initial(given, 2, 0))


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs 0 must be at least 1"),
        ({"epochs": 2.5}, "epochs 2.5 must be a whole number"),
        ({"patience": 0}, "patience 0 must be at least 1"),
        ({"batch_size": -1}, "batch_size -1 must be at least 1"),
        ({"learning_rate": -0.1}, "learning_rate -0.1 must be a positive number"),
        ({"learning_rate": "fast"}, "learning_rate 'fast' must be a positive number"),
        ({"weight_decay": -1}, "weight_decay -1 must be a positive number"),
        ({"weight_decay": float("nan")}, "weight_decay nan must be a positive number"),
        ({"learning_rate": 2.0, "weight_decay": 0.5}, "it must be under 1"),
        ({"held_out": 1.0}, "held_out 1.0 must be a share of the training data, in [0, 1)"),
        ({"held_out": -0.1}, "held_out -0.1 must be a positive number"),
        ({"optimizer": "lion"}, "optimizer 'lion' is unknown: use 'adamw' or 'sgd'"),
        ({"objective": "elbo"}, "objective 'elbo' is unknown: use 'likelihood' or 'posterior'"),
        ({"objective": "posterior", "weight_decay": 0.1}, "beside objective 'posterior'"),
    ],
)
def test_settings_out_of_range(options, words):
    with pytest.raises(UserError) as caught:
        hmc_fast.Training(**options)
    assert words in str(caught.value)


def density():
    return hmc_fast.Density(lambda t: -t.square().sum(), 2)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight


class Broken(nn.Linear):
    def reset_parameters(self):
        if hasattr(self, "ready"):
            raise RuntimeError("no")
        super().reset_parameters()
        self.ready = True


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (density, {}, "a bare Density has no data to train on"),
        (posterior, {"batch_size": 19}, "batch_size 19 of training must be at most 18, the examples that are not"),
        (posterior, {"held_out": 0.99}, "held_out 0.99 of 20 examples leaves none to train on"),
        (posterior, {"start": "nowhere"}, "init 'nowhere' is unknown"),
        (posterior, {"start": torch.zeros(3)}, "init has shape (3,)"),
        (lambda: hmc_fast.Posterior(Bare(), data()), {}, "no layer of the model has reset_parameters()"),
        (lambda: hmc_fast.Posterior(Broken(4, 3).double(), data()), {}, "reset_parameters() of the model failed"),
    ],
)
def test_targets_that_cannot_be_trained(target, options, words):
    for train in (
        lambda made: hmc_fast.Training(**options).members(made, 2, **QUIET),
        lambda made: hmc_fast.run(made, hmc_fast.HMC(0.1, num_leapfrog=1), init=hmc_fast.Training(**options)),
    ):
        with pytest.raises(UserError) as caught:
            train(target())
        assert words in str(caught.value)


def exploding(outputs, y):
    """Undefined where outputs are large."""
    return torch.where(outputs[:, 0] > 3, torch.nan, 10 * outputs[:, 0])


def test_a_member_that_diverges_is_named_with_a_cure():
    x, _ = data(dtype=torch.float32)
    target = hmc_fast.Posterior(nn.Linear(4, 1), (x, x[:, 0]), "gaussian")
    start = torch.zeros(2, 5)
    start[0, 0] = 1.0  # the solution: the first member stays there
    settings = hmc_fast.Training(optimizer="sgd", learning_rate=1e3, weight_decay=0, epochs=40, start=start)
    with pytest.raises(UserError) as caught:
        settings.members(target, 2, **QUIET)
    assert "member 1 diverged to NaN or infinity in epoch " in str(caught.value)
    assert str(caught.value).endswith(" of training: use a learning rate below 1000")


def test_a_likelihood_that_becomes_or_is_undefined_is_named():
    x, _ = data()
    target = hmc_fast.Posterior(nn.Linear(4, 1).double(), (x, x[:, 0]), exploding)
    settings = hmc_fast.Training(learning_rate=0.5, epochs=30, start=torch.zeros(5))
    with pytest.raises(UserError, match=r"log likelihood of member 0 is NaN in epoch .* are finite: keep it "):
        settings.members(target, 2, **QUIET)
    at_once = hmc_fast.Training(epochs=3, start=torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0]))
    with pytest.raises(UserError, match="log likelihood of example 0 is nan at the start of chain 0"):
        at_once.members(target, 2, **QUIET)


def test_a_class_in_place_of_an_object():
    with pytest.raises(UserError, match="init is the class Training"):
        hmc_fast.run(classifier()[0], hmc_fast.HMC(0.1, num_leapfrog=1), init=hmc_fast.Training)


def test_a_member_that_has_stopped_may_do_as_it_likes(monkeypatch):
    target = classifier()[0]
    scripted(monkeypatch, [[1, 5], [2, 4], [3, 3], [np.nan, 2]])
    with contextlib.suppress(IndexError):
        found = hmc_fast.Training(epochs=4, patience=2).members(target, 2, **QUIET)
    assert torch.isfinite(found).all()
