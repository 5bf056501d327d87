"""Under distribution shift (Izmailov et al. 2021; Ovadia et al. 2019): corrupted and foreign images."""

import numpy as np
import pandas as pd
import torch

from ...datasets import load
from ...errors import UserError
from ...report.drawing import image_look
from ..compared_methods import approximations, check_members, minibatch_samplers
from ..corruptions import CORRUPTIONS, INTENSITIES, corrupt
from ..page import Answer, scores
from ..run_cache import Lab
from .baselines import LOOKS

QUESTION = "What becomes of the predictions when the data shift?"
METHODS = ("SGD", "deep ensemble", "mean-field VI", "SG-HMC")  # beside HMC
MOST_DRAWS = 25  # of each chain: 30 sets of corrupted images are predicted


def answer(lab: Lab, page: Answer) -> None:
    """Asks for grey images."""
    s = lab.settings
    images = lab.dataset.grey_images()
    if images is None:
        raise UserError(
            f"the test inputs of preset {lab.preset!r} are not grey images: there is nothing to corrupt"
        )
    check_members(lab)
    foreign, name, missing = _foreign(lab, images)
    page.note += missing
    jobs = approximations(lab, s.seed) | minibatch_samplers(lab, s.seed)
    jobs = {name: job for name, job in jobs.items() if name.startswith(METHODS)}
    names, samples = ["HMC", *jobs], lab.obtain([lab.hmc(seed=s.seed), *jobs.values()])
    rows, outside = [], []
    for method, sample in zip(names, samples, strict=True):
        rows.append({"method": method, "corruption": "none", "intensity": 0} | scores(sample.bma, lab.labels))
        for corruption in CORRUPTIONS:
            for intensity in INTENSITIES:
                inputs = _inputs(lab, corrupt(images, corruption, intensity, s.seed))
                probs = sample.predict(inputs, most=MOST_DRAWS).mean((0, 1), dtype=np.float64)
                rows.append(
                    {"method": method, "corruption": corruption, "intensity": intensity} | scores(probs, lab.labels)
                )
        if foreign is None:
            continue
        far = sample.predict(_inputs(lab, foreign), most=MOST_DRAWS).mean((0, 1), dtype=np.float64)
        outside.append({"method": method, **_detection(sample.bma, far)})
    table, detected = pd.DataFrame(rows), pd.DataFrame(outside)
    mean = table.groupby(["method", "intensity"], sort=False)[["accuracy", "nll", "ece"]].mean().reset_index()
    page.table("intensity", "Means over the corruptions", mean)
    if foreign is not None:
        page.table("ood", f"Telling {name} from the test set: AUROC, and mean top probabilities", detected)
    page.table("shift", "Every corruption and intensity", table)
    _draw(page, mean, names)
    _examples(page, images, foreign, name)
    _claims(page, table, mean, detected)


def _inputs(lab: Lab, images: np.ndarray) -> torch.Tensor:
    shape = lab.dataset.x_test.shape[1:]
    return torch.from_numpy(images).to(lab.dataset.x_test.dtype).reshape(-1, *shape)


def _foreign(lab: Lab, images: np.ndarray) -> tuple[np.ndarray | None, str, str]:
    """Images of the other data set at this one's size and range: clothes for digits, digits for clothes; its name;
    and a sentence if they cannot be had."""
    from scipy.ndimage import zoom

    other = "fashion-mnist" if lab.dataset.name == "digits" else "digits"
    try:
        found = load(other, lab.settings.data_dir)
    except UserError as error:
        return None, other, f" Foreign images are left out: {error}."
    # The digits are few, so all of them are taken; of the clothes the test set.
    flat = torch.cat((found.x_train, found.x_test)) if other == "digits" else found.x_test
    flat = flat[: max(1000, len(images))]
    side = round(flat[0].numel() ** 0.5)
    square = flat.reshape(-1, side, side).numpy().astype(np.float64)
    scaled = zoom(square, (1, images.shape[1] / side, images.shape[2] / side), order=1)
    unit = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    low, high = float(images.min()), float(images.max())
    return (unit * (high - low) + low).astype(images.dtype), other, ""


def _detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """AUROC of the predictions' entropy and of their top probability."""
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate((np.zeros(len(inside)), np.ones(len(outside))))
    both = np.concatenate((inside, outside))
    entropy = -(both * np.log(np.maximum(both, 1e-300))).sum(1)
    return {
        "AUROC, entropy": float(roc_auc_score(truth, entropy)),
        "AUROC, top probability": float(roc_auc_score(truth, -both.max(1))),
        "top probability, test set": float(inside.max(1).mean()),
        "top probability, foreign": float(outside.max(1).mean()),
    }


def _draw(page: Answer, mean: pd.DataFrame, names: list[str]) -> None:
    caption = "Means over six corruptions; intensity 0 is the test set as it is."
    with page.figure("shift", "Scores under corruption", caption, (10.2, 3.4)) as figure:
        axes = figure.subplots(1, 3)
        panels = (("accuracy", "test accuracy"), ("nll", "test NLL (nats)"), ("ece", "ECE"))
        for ax, (score, label) in zip(axes, panels, strict=True):
            for index, method in enumerate(names):
                part = mean[mean["method"] == method]
                colour, marker, dashes = LOOKS[index]
                ax.plot(part["intensity"], part[score], ls=dashes, marker=marker, ms=5, color=colour, label=method)
            ax.set(xlabel="intensity", ylabel=label)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def _examples(page: Answer, images: np.ndarray, foreign: np.ndarray | None, name: str) -> None:
    caption = "One test image under each corruption, intensities 0 to 5."
    caption += f" Last row: {name}, the foreign images." if foreign is not None else ""
    with page.figure("examples", "What the corruptions look like", caption, (5.4, 6.4)) as figure:
        axes = figure.subplots(len(CORRUPTIONS) + (foreign is not None), 6)
        limits = {"vmin": float(images.min()), "vmax": float(images.max())}
        for row, corruption in enumerate(CORRUPTIONS):
            for column in range(6):
                shown = corrupt(images, corruption, column)[0] if column else images[0]
                axes[row, column].imshow(shown, **image_look(images), **limits)
            axes[row, 0].set_ylabel(corruption)
        if foreign is not None:
            for column in range(6):
                axes[-1, column].imshow(foreign[column], **image_look(images), **limits)
            axes[-1, 0].set_ylabel("foreign")
        for ax in axes.ravel():
            ax.set(xticks=[], yticks=[])


def _claims(page: Answer, table: pd.DataFrame, mean: pd.DataFrame, detected: pd.DataFrame) -> None:
    def at(method: str, intensity: int) -> pd.Series:
        return mean[mean["method"].str.startswith(method) & (mean["intensity"] == intensity)].iloc[0]

    clean = {m: at(m, 0) for m in ("HMC", "SGD", "deep ensemble")}
    worst = {m: at(m, 5) for m in ("HMC", "SGD", "deep ensemble")}

    def line(rows: "dict[str, pd.Series]") -> str:
        return ", ".join(f"{m} {r['accuracy']:.3f} / {r['nll']:.3f}" for m, r in rows.items())

    page.claim(
        "Under corruption HMC loses more accuracy than a deep ensemble, as in the paper.",
        bool(
            clean["HMC"]["accuracy"] - worst["HMC"]["accuracy"]
            > clean["deep ensemble"]["accuracy"] - worst["deep ensemble"]["accuracy"]
        ),
        f"Accuracy / NLL without corruption: {line(clean)}; at intensity 5: {line(worst)}.",
    )
    grid = table[table["intensity"] == INTENSITIES[-1]].pivot(
        index="corruption", columns="method", values="accuracy"
    )
    other = next(c for c in grid.columns if c.startswith("deep ensemble"))
    gap = (grid["HMC"] - grid[other]).sort_values()
    page.claim(
        "Corruption by corruption, HMC's accuracy minus the ensemble's at intensity 5:",
        None,
        ", ".join(f"{name} {value:+.3f}" for name, value in gap.items()) + ".",
    )
    if detected.empty:
        return
    best = detected.sort_values("AUROC, entropy").iloc[-1]
    hmc = detected.iloc[0]
    page.claim(
        "HMC tells foreign images from its own best of all.",
        bool(best["method"] == "HMC"),
        f"AUROC of the entropy: {hmc['AUROC, entropy']:.4f}; best {best['method']}, {best['AUROC, entropy']:.4f}.",
    )
