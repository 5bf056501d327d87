"""The report: whole, self-contained, escaped, and clear about what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finished_run import CLASSES, TEST, grey_images, make_run
from hmc_fast.errors import UserError
from hmc_fast.report import read_run, write_report
from hmc_fast.report.findings import findings


def test_classification_report_is_whole_and_self_contained(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path), images=grey_images(), class_names=[f"kind {k}" for k in range(10)])
    html = page.read_text(encoding="utf-8")
    assert page == tmp_path / "report.html"
    assert page.stat().st_size < 2_000_000
    assert "http://" not in html
    assert "https://" not in html
    sources = re.findall(r"(?:src|href)=[\"']?([^\"'> ]{0,22})", html)
    assert sources == ["data:image/png;base64,"] * 12
    assert figures_of(tmp_path) == {
        "trace", "acceptance", "energy_error", "ranks", "energy", "accuracy", "nll", "nll_gradients", "reliability",
        "uncertainty", "uncertain_images", "wrong_images",
    }  # fmt: skip
    assert "4\u00a0chains × 100\u00a0draws, acceptance .81, no\u00a0divergences." in html
    assert "97.0\u202f% of the predicted values have an R-hat below 1.1" in html
    assert "1.93\u202fMB" in html
    assert "versions.torch" in html
    assert "Peak memory" not in html, "a null is left out"


def figures_of(directory: Path) -> set[str]:
    """Names of the figures; each is a picture of a readable size with something drawn on it."""
    from matplotlib.image import imread

    names = set()
    for path in (directory / "figures").glob("*.png"):
        picture = imread(path)[..., :3]
        assert picture.shape[1] >= 700, path
        assert 0.01 < (picture.min(-1) < 0.9).mean() < 0.7, path
        names.add(path.stem)
    return names


def test_regression_report(tmp_path: Path) -> None:
    html = write_report(make_run(tmp_path, regression=True)).read_text(encoding="utf-8")
    assert figures_of(tmp_path) == {
        "trace", "acceptance", "energy_error", "ranks", "energy", "predictions", "residuals", "rmse",
        "log_likelihood", "log_likelihood_gradients",
    }  # fmt: skip
    assert "BMA RMSE 1.61" in html
    assert "−2.02" in html
    assert ">ECE<" not in html


def test_sghmc_says_that_nothing_is_rejected(tmp_path: Path) -> None:
    html = write_report(make_run(tmp_path, mh=False)).read_text(encoding="utf-8")
    assert figures_of(tmp_path) == {
        "trace", "ranks", "accuracy", "nll", "nll_gradients", "reliability", "uncertainty"
    }  # fmt: skip
    assert "no Metropolis test" in html
    assert "accepts every step without a Metropolis-Hastings test" in html


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    attack = "</td><script>alert(1)</script>{{ 7 * 7 }}"
    make_run(tmp_path, **{"model": attack, "<img src=x onerror=alert(2)>": ['"><b>']})
    change_metrics(tmp_path, preset=attack, device=attack)
    names = ["$\\frac$", "<b>&", "a" * 300, "\n", "漢字", *"56789"]
    html = write_report(tmp_path, images=grey_images(), class_names=names).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "49" not in re.sub(r"base64,[^\"]*", "", html).split("</style>")[1]
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}") >= 3


def change_metrics(directory: Path, **changes: Any) -> None:
    path = directory / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_poor_run_is_told_what_to_try(tmp_path: Path) -> None:
    make_run(tmp_path)
    change_metrics(tmp_path, acceptance_rate=0.2, divergences=3, rhat_function_share_below_1_1=0.4)
    said = " ".join(finding.text for finding in findings(read_run(tmp_path)))
    assert "A rate of .20 is low" in said
    assert "Diverged trajectories: 3." in said
    assert "Many values have not converged" in said


def test_the_diagnosis_of_a_run_is_marked_by_its_kinds(tmp_path: Path) -> None:
    """And shown unmarked where the folder is of a version that did not write them."""
    make_run(tmp_path)
    said = ["One thing is wrong.", "Another is harmless."]
    change_metrics(tmp_path, diagnosis=said, diagnosis_kinds=["warning", "note"])
    assert [(f.good, f.text) for f in findings(read_run(tmp_path))] == [(False, said[0]), (None, said[1])]
    change_metrics(tmp_path, diagnosis=said, diagnosis_kinds=None)
    assert [(f.good, f.text) for f in findings(read_run(tmp_path))] == [(None, text) for text in said]
    assert "Another is harmless." in write_report(tmp_path).read_text(encoding="utf-8")


def test_metrics_of_nulls_and_one_short_chain(tmp_path: Path) -> None:
    make_run(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps(dict.fromkeys(metrics) | {"nll": float("nan")}))
    trace = pd.read_csv(tmp_path / "trace.csv")
    trace[(trace["chain"] == 0) & (trace["iteration"] < 1)].to_csv(tmp_path / "trace.csv", index=False)
    predictions = dict(np.load(tmp_path / "predictions.npz"))
    for key in predictions:
        if key.startswith(("curve", "single")):
            predictions[key] = predictions[key][:1]
    predictions["single_nll"] = predictions["single_nll"] * np.inf
    np.savez(tmp_path / "predictions.npz", **predictions)
    assert "A finished run, without a test score" in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "trace.csv", "predictions.npz"])
@pytest.mark.parametrize("content", [None, b"", b"\x00\xff[garbled", b"[1, 2]"])
def test_missing_or_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    make_run(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", np.full(TEST, CLASSES), "label outside 0..9"),
        ("labels", np.zeros(3), "'labels' of shape"),
        ("probs", np.full((TEST, CLASSES), np.nan), "step-size"),
        ("epistemic", np.array(["x"] * TEST), "no numbers in 'epistemic'"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    make_run(tmp_path)
    np.savez(tmp_path / "predictions.npz", **(dict(np.load(tmp_path / "predictions.npz")) | {key: value}))
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)


def test_images_and_names_that_do_not_fit(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(UserError, match="3 images do not fit the 400 test points"):
        write_report(tmp_path, images=np.zeros((3, 8, 8)))
    with pytest.raises(UserError, match=r"shape \(400, 64\)"):
        write_report(tmp_path, images=np.zeros((400, 64)))
    with pytest.raises(UserError, match="2 class names do not fit the 10 classes"):
        write_report(tmp_path, class_names=["a", "b"])
