"""Kernels beside their twins before a first run: once per machine, and never silently wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hmc_fast
from cases import classifier, go
from hmc_fast.engine import kernel_check, runner
from hmc_fast.kernels import ops, self_check


@pytest.fixture
def target(monkeypatch, tmp_path, device):
    """As on a GPU: the interpreter stands in for one. Of all operations, three."""
    monkeypatch.setattr(self_check, "OPERATIONS", ("kick_drift", "energy_difference", "select"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_check, "_name", lambda device: "card of 2026")
    return classifier()[0].to(device)


def test_kernels_are_checked_once_for_each_kind_of_run(target, tmp_path, monkeypatch):
    line = kernel_check.check_kernels(target, 2)
    assert line.startswith("kernels agree with their definitions on this card of 2026 (")
    assert kernel_check.check_kernels(target, 2) is None
    assert list(json.loads((tmp_path / "hmc_fast/kernels.json").read_text()).values()) == [
        f"card of 2026, torch {torch.__version__}"
    ]
    assert kernel_check.check_kernels(target, 1) is not None  # kernels of other arguments
    target.prior = tuple(replace(segment, family=ops.LAPLACE) for segment in target.prior)
    assert kernel_check.check_kernels(target, 2) is not None
    monkeypatch.setattr(kernel_check, "_driver", lambda: 99)
    assert kernel_check.check_kernels(target, 2) is not None


def test_a_wrong_kernel_is_named_and_tried_again(target, tmp_path, monkeypatch):
    plain = ops.energy_difference
    monkeypatch.setattr(ops, "energy_difference", lambda *args, **options: plain(*args, **options) + 1e-3)
    for _ in range(2):
        with pytest.raises(hmc_fast.UserError, match=r"kernel 'energy_difference' is wrong.*kernels='torch'"):
            kernel_check.check_kernels(target, 2)
    assert not (tmp_path / "hmc_fast/kernels.json").exists()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("family", [ops.NORMAL, ops.LAPLACE])
def test_the_kind_of_scale_that_a_run_uses_is_checked(target, monkeypatch, family, vector):
    def wrong(theta, momentum, grad, prior, *args, plain=ops.kick_drift, **options):
        plain(theta, momentum, grad, prior, *args, **options)
        if options.get("impl") == "triton" and any(isinstance(s.scale, torch.Tensor) == vector for s in prior):
            momentum.add_(1e-3)

    monkeypatch.setattr(ops, "kick_drift", wrong)
    for scale in (torch.full((target.num_params,), 0.5), 0.5):
        target.prior = (ops.Segment(0, target.num_params, family, scale),)
        if isinstance(scale, torch.Tensor) == vector:
            with pytest.raises(hmc_fast.UserError, match="kernel 'kick_drift' is wrong"):
                kernel_check.check_kernels(target, 2)
        else:
            assert kernel_check.check_kernels(target, 2) is not None


def test_a_folder_that_cannot_be_written_is_told(target, monkeypatch):
    def fails(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", fails)
    assert "cannot be written" in kernel_check.check_kernels(target, 2)


def test_a_run_checks_the_kernels_that_it_uses(monkeypatch):
    checked = []
    monkeypatch.setattr(runner, "check_kernels", lambda target, chains: checked.append((target.kernels, chains)))
    go(kernels="torch")
    assert checked == []
    go()  # on a CPU there are none
    assert checked == []
    monkeypatch.setattr(hmc_fast.Posterior, "with_kernels", lambda self, kernels: self)
    run = go()
    assert checked == [("auto", 2)]
    assert run.target.kernels == "auto"


def test_kernels_of_an_unknown_kind():
    with pytest.raises(hmc_fast.UserError, match="kernels 'triton' is unknown: use 'auto' or 'torch'"):
        go(kernels="triton")


@pytest.mark.gpu
def test_kernels_and_twins_give_a_gpu_the_same_draws():
    kernels, twins = (go("sghmc", device="cuda", kernels=kernels, compile=False) for kernels in ("auto", "torch"))
    np.testing.assert_allclose(kernels.draws, twins.draws, atol=2e-3)
    assert twins.target.kernels == "torch"
