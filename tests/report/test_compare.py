"""`python -m hmc_fast.report` on one run and on several; what it refuses; and its pages in a real browser."""

import html as markup
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from finished_run import make_run
from hmc_fast.report import read_run
from hmc_fast.report.__main__ import main
from hmc_fast.report.compare import write_comparison
from hmc_fast.report.prediction_panels import most_uncertain, most_wrong

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def test_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(make_run(tmp_path))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


def test_several_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "short", trajectory_length=0.1)
    second = make_run(tmp_path / "long", mh=False, trajectory_length=0.7)
    metrics = json.loads((second / "metrics.json").read_text()) | {"nll": 0.0123, "ess_function_min": 5.5}
    (second / "metrics.json").write_text(json.dumps(metrics))
    out = tmp_path / "both.html"
    assert main([str(first), str(second), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    page = out.read_text()
    assert page.count("base64,") == 2 + 1 + 2, "two traces, reliability, two curves"
    assert set(re.findall(r"(?:src|href)=\"?([^\"> ]{0,22})", page)) == {"data:image/png;base64,"}
    rows = {
        re.sub("<.*?>", "", cells[0]): [re.sub("<.*?>", "", cell) for cell in cells[1:]]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)
        if len(cells := re.findall(r"<t[hd].*?>.*?</t[hd]>", row, re.S)) == 3
    }
    assert rows["trajectory_length"] == ["0.1", "0.7"]
    assert "prior_variance" not in rows, "the same in both"
    assert rows["NLL (nats)"][1] == "0.0123 ★", "the lower NLL is the better one"
    assert rows["Smallest ESS of predictions"] == ["61 ★", "5.5"]
    assert rows["Acceptance"] == ["0.81", "–"], "the second has no test, and neither is better"
    assert not list(tmp_path.glob("**/*report.html")), "the runs' own folders are left alone"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name / "digits")) for name in _made(tmp_path, "a", "b")]
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    assert "a/digits" in page
    assert "b/digits" in page


def _made(root: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        (root / name).mkdir()
    return names


def test_regressions_side_by_side(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name, regression=True)) for name in "ab"]
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    assert page.count("base64,") == 2 + 2
    assert "Total variation" not in page


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    other = make_run(tmp_path / "other", regression=True)
    fewer = make_run(tmp_path / "fewer")
    predictions = dict(np.load(fewer / "predictions.npz"))
    of_points = {"probs", "labels", "epistemic", "aleatoric"}
    predictions = {key: value[:-1] if key in of_points else value for key, value in predictions.items()}
    predictions["chain_probs"] = predictions["chain_probs"][:, :-1]
    np.savez(fewer / "predictions.npz", **predictions)
    begun = make_run(tmp_path / "begun")
    (begun / "checkpoint").mkdir()
    (begun / "metrics.json").unlink()
    before = sorted(tmp_path.glob("**/*"))
    out = str(tmp_path / "page.html")
    for arguments, message in (
        ([], "are required: DIR"),
        (["nowhere"], "nowhere is not a directory"),
        ([str(tmp_path)], "config.json"),
        ([str(begun)], f"is not finished: continue it with python -m hmc_fast.sample --resume --out {begun}"),
        ([str(run), "--out", out], "needs several runs"),
        ([str(run), str(run), "--out", out], "is given twice"),
        ([str(run), str(other), "--out", out], "compare runs of the same kind"),
        ([str(run), str(fewer), "--out", out], "(399 and 400 test points): compare runs on the same test set"),
        ([str(run), str(make_run(tmp_path / "run2")), "--out", str(tmp_path / "no/page.html")], "--out"),
        ([str(run), "--outt", out], "unrecognized arguments: --outt"),
    ):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        error = capsys.readouterr().err
        assert status == 2, arguments
        assert error.count("\n") == 1, error
        assert message in error
    written = set(tmp_path.glob("**/*")) - set(before)
    assert all(path.is_relative_to(tmp_path / "run2") for path in written), "nothing is written"


def test_the_most_wrong_images_are_those_whose_class_was_least_probable(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    given = run.predictions["probs"][np.arange(len(run.predictions["labels"])), run.predictions["labels"]]
    assert given[most_wrong(run, 5)].tolist() == sorted(given.tolist())[:5]
    entropy = -(run.predictions["probs"] * np.log(run.predictions["probs"])).sum(1)
    assert np.allclose(entropy[most_uncertain(run, 5)], np.sort(entropy)[::-1][:5])


def test_energies_and_what_they_say_of_momenta(tmp_path: Path) -> None:
    """E-BFMI of a random walk of energies is small, of independent ones 2 (ArviZ divides likewise)."""
    run = read_run(make_run(tmp_path))
    assert run.has_energies
    assert np.allclose(run.e_bfmi(), 2, atol=0.7)
    ours = run.energies()
    expected = run.trace["kinetic_energy"] - run.trace["log_likelihood"] - run.trace["log_prior"]
    last = run.trace.groupby("chain")["iteration"].idxmax()
    assert np.allclose(ours[-1], expected[last])
    walk = np.random.default_rng(0).normal(size=len(run.trace)).cumsum()
    run.trace["kinetic_energy"] = walk + run.trace["log_likelihood"] + run.trace["log_prior"]
    assert run.e_bfmi().max() < 0.5


def test_cost_axis_counts_burn_in_and_every_chain(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))  # 4 chains, 40 + 100 iterations of 40 leapfrog steps, 40 points of the curve
    gradients = run.gradients_at_draws()
    assert gradients[-1] == 4 * 140 * 40
    assert gradients[0] == 4 * (40 + np.ceil(100 / 40)) * 40


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.slow
def test_pages_fit_the_screen_in_a_browser(tmp_path: Path, width: int) -> None:
    """On a phone nothing reaches over the right edge but inside boxes that scroll by themselves."""
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", mh=False, trajectory_length=0.1)
    copies = [str(shutil.copytree(second, tmp_path / f"a_copy_of_the_second_{k}")) for k in range(4)]
    assert main([str(first)]) == main([str(first), *copies, "--out", str(tmp_path / "all.html")]) == 0
    for page in (first / "report.html", tmp_path / "all.html"):
        inside = markup.escape(page.read_text(encoding="utf-8"), quote=True)
        measure = (
            "const d=this.contentDocument;const e=d.documentElement;"
            "document.title='wide '+e.scrollWidth+' of '+e.clientWidth+' with '"
            "+[...d.images].filter(i=>i.complete&&i.naturalWidth>500).length"
        )
        frame = tmp_path / "frame.html"
        frame.write_text(
            f'<!doctype html><meta charset="utf-8"><iframe srcdoc="{inside}" onload="{measure}" '
            f'style="border:0;width:{width}px;height:900px"></iframe>',
            encoding="utf-8",
        )
        shown = browse(tmp_path, frame, "--dump-dom")
        wide, of, images = map(int, re.search(r"wide (\d+) of (\d+) with (\d+)", shown).groups())  # type: ignore[union-attr]
        assert of == width
        assert wide <= width, page.name
        assert images == page.read_text().count("<img "), "every picture is there"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.slow
def test_a_page_is_seen(tmp_path: Path) -> None:
    from matplotlib.image import imread

    make_run(tmp_path)
    assert main([str(tmp_path)]) == 0
    shot = tmp_path / "shot.png"
    browse(tmp_path, tmp_path / "report.html", f"--screenshot={shot}", "--window-size=1280,2400")
    picture = imread(shot)[..., :3]
    assert picture.shape[:2] == (2400, 1280)
    inked = (np.abs(picture - np.median(picture, (0, 1))) > 0.2).any(-1)
    assert inked[:600].mean() > 0.01, "a headline and tiles"
    assert inked[600:].mean() > 0.01, "and figures below"


def browse(directory: Path, page: Path, *flags: str) -> str:
    """What a headless browser prints of `page`, with no network."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--proxy-server=127.0.0.1:9", f"--user-data-dir={directory / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout
