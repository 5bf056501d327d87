"""A run resumes only with its own model, data and test inputs, even where only functions differ."""

import copy
import json
import re

import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.engine import fingerprint
from hmc_fast.likelihoods import Gaussian

OPTIONS = {"chains": 2, "burn_in": 1, "draws": 2, "progress": False}


class Network(nn.Module):
    """Says nothing about its activation or its offset when it is printed."""

    def __init__(self, activation=torch.tanh, offset=0.0, frozen=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.hidden, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("offset", torch.full((1,), offset, dtype=torch.float16))
        self.hidden.requires_grad_(not frozen)
        self.activation = activation

    def forward(self, x):
        return self.out(self.activation(self.hidden(x)) + self.offset.float())


def layers(activation):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator)
    return x[:12], (x[:12, 0] > 0).long(), x[12:], (x[12:, 0] > 0).long()


def resumes(folder, model=None, likelihood="categorical", test=None, y=None, sampler=None, **options):
    """A run in `folder`, continued if it is there."""
    x, labels, x_test, y_test = data()
    posterior = hmc_fast.Posterior(model or Network(), (x, labels if y is None else y), likelihood, **options)
    test = (x_test, y_test) if test is None else test
    sampler = sampler or hmc_fast.HMC(0.05, num_leapfrog=2)
    return hmc_fast.run(posterior, sampler, test=test, out=folder, resume=folder.exists(), **OPTIONS)


def nudged(network):
    """By too little for its values to show it."""
    with torch.no_grad():
        network.hidden.weight.add_(1e-6)
    return network


def double(outputs, y):
    return 2 * torch.log_softmax(outputs, 1).gather(1, y[:, None])[:, 0]


def single(outputs, y):
    return double(outputs, y) / 2


x, y, x_test, y_test = data()

OTHERS = {
    "activation in the forward": (
        {"model": Network()}, {"model": Network(torch.relu)}, "a model, likelihood or output that gives other"),
    "activation as a layer": (
        {"model": layers(nn.ReLU())}, {"model": layers(nn.Tanh())}, r"another model, '\(1\): ReLU\(\)' where"),
    "one more layer": (
        {"model": layers(nn.ReLU())}, {"model": nn.Sequential(*layers(nn.ReLU()), nn.Identity())},
        r"another model, '\)' where this one has '\(3\): Identity\(\)'"),
    "half-precision buffer": ({"model": Network()}, {"model": Network(offset=1e-3)}, "other constant weights"),
    "frozen": ({"model": Network()}, {"model": Network(frozen=True)}, "another model, 'hidden.weight "),
    "frozen weights": (
        {"model": Network(frozen=True)}, {"model": nudged(Network(frozen=True))}, "other constant weights"),
    "likelihood as a function": (
        {"likelihood": single}, {"likelihood": double}, "a model, likelihood or output that gives other"),
    "likelihood by name": (
        {"likelihood": single}, {}, "likelihood 'a function', not \"Categorical"),
    "noise": (
        {"likelihood": Gaussian(1.0), "model": nn.Linear(3, 1), "y": x[:, 0], "test": x_test},
        {"likelihood": Gaussian(0.5), "model": nn.Linear(3, 1), "y": x[:, 0], "test": x_test},
        r"likelihood \"Gaussian\(noise_std=1.0"),
    "output": (
        {"output": lambda returned: returned}, {"output": lambda returned: returned.flip(1)},
        "a model, likelihood or output that gives other"),
    "labels": ({}, {"y": 1 - y}, "other data"),
    "test inputs": ({}, {"test": (x_test + 1, y_test)}, "other test inputs"),
    "test labels": ({}, {"test": (x_test, 1 - y_test)}, "other test labels"),
    "test labels left out": ({}, {"test": x_test}, "other test labels"),
    "sampler": ({}, {"sampler": hmc_fast.SGHMC(0.02, friction=5.0)}, "sampler 'hmc', not 'sghmc'"),
    "setting": (
        {}, {"sampler": hmc_fast.HMC(0.05, num_leapfrog=3)}, "hmc num_leapfrog '2', not '3'"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_the_draws_is_refused_and_named(name, tmp_path):
    first, other, message = OTHERS[name]
    run = resumes(tmp_path / "run", **first)
    with pytest.raises(hmc_fast.UserError, match=f"was made with {message}"):
        resumes(tmp_path / "run", **other)
    again = resumes(tmp_path / "run", **copy.deepcopy(first))
    assert (run.draws == again.draws).all()


def test_another_module_of_the_same_values_resumes(tmp_path):
    """Initial values of the module play no part where chains start at the prior."""
    resumes(tmp_path / "run")
    other = Network()
    with torch.no_grad():
        other.hidden.weight.add_(1.0)
    resumes(tmp_path / "run", model=other)


def test_an_earlier_checkpoint_is_refused_in_one_sentence():
    with pytest.raises(hmc_fast.UserError, match="of an earlier version of hmc_fast: start a new run"):
        fingerprint.assert_same_run({"seed": 0}, {"seed": 0, "model": []}, "here")


def test_values_of_functions_are_compared_up_to_rounding():
    base = {"log likelihoods": [1.0, float("nan"), -float("inf")], "machine": {}}
    stored = json.loads(json.dumps(base))
    fingerprint.assert_same_run(stored, base | {"log likelihoods": [1.00001, float("nan"), -float("inf")]}, "here")
    for other in ([1.001, float("nan"), -float("inf")], [1.0, 0.0, -float("inf")], [1.0, float("nan")]):
        with pytest.raises(hmc_fast.UserError, match="other log likelihoods"):
            fingerprint.assert_same_run(stored, base | {"log likelihoods": other}, "here")


def test_another_version_or_machine_is_told_and_goes_on(tmp_path, monkeypatch, capsys):
    run = resumes(tmp_path / "run")
    assert not capsys.readouterr().err
    here = fingerprint._machine(torch.device("cpu"))
    monkeypatch.setattr(fingerprint, "_machine", lambda device: here | {"torch": "1.0", "threads": "64"})
    again = resumes(tmp_path / "run")
    said = capsys.readouterr().err
    assert re.search(r"was computed with torch \S+, now 1.0; threads \d+, now 64: .* may make them differ", said)
    assert (run.draws == again.draws).all()


def test_a_run_in_memory_takes_no_fingerprint(monkeypatch):
    monkeypatch.setattr("hmc_fast.engine.runner.fingerprint", None)
    posterior = hmc_fast.Posterior(Network(), data()[:2])
    hmc_fast.run(posterior, hmc_fast.HMC(0.05, num_leapfrog=2), **OPTIONS)
