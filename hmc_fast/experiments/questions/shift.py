"""How do predictions degrade under distribution shift? (Izmailov et al. 2021; Ovadia et al. 2019)"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from ...datasets import load
from ...errors import UserError
from ...report.drawing import image_look
from ..compared_methods import approximations, check_members, minibatch_samplers
from ..corruptions import CORRUPTIONS, INTENSITIES, corrupt
from ..page import Page, scores
from ..run_cache import Lab, Sample
from .baselines import LOOKS

QUESTION = "How do predictions degrade under distribution shift?"
METHODS = ("sgd", "mean_field", "ensemble", "sghmc")  # by key, in addition to HMC
MOST_DRAWS = 25  # per chain, because there are 30 sets of corrupted images


def answer(lab: Lab, page: Page) -> None:
    """Needs greyscale images."""
    s = lab.settings
    images = lab.dataset.grey_images()
    if images is None:
        raise UserError(
            f"the test inputs of preset {lab.preset!r} are not greyscale images, which shift needs: choose another "
            "preset"
        )
    check_members(lab)
    other, name, missing = _other_images(lab, images)
    page.note += missing
    jobs = approximations(lab, s.seed) | minibatch_samplers(lab, s.seed)
    jobs = {"hmc": lab.hmc(seed=s.seed)} | {key: jobs[key] for key in METHODS}
    samples = dict(zip(jobs, lab.obtain(list(jobs.values())), strict=True))
    rows: list[dict[str, Any]] = []
    detected: dict[str, dict[str, Any]] = {}  # by key
    for key, sample in samples.items():
        at = {"key": key, "method": sample.name}
        rows.append({**at, "corruption": "none", "intensity": 0, **scores(sample.bma, lab.labels)})
        for corruption in CORRUPTIONS:
            for intensity in INTENSITIES:
                probs = _predict(lab, sample, corrupt(images, corruption, intensity, s.seed))
                rows.append({**at, "corruption": corruption, "intensity": intensity, **scores(probs, lab.labels)})
        if other is not None:
            detected[key] = {"method": sample.name, **_detection(sample.bma, _predict(lab, sample, other))}
    table = pd.DataFrame(rows)
    groups = table.groupby(["key", "method", "intensity"], sort=False)
    mean = groups[["accuracy", "nll", "ece"]].mean().reset_index()
    page.table("intensity", "Means over the corruptions", mean.drop(columns="key"))
    if detected:
        title = f"Detecting {name} as out-of-distribution: AUROC and mean top probabilities"
        page.table("ood", title, pd.DataFrame(detected.values()))
    page.table("shift", "Every corruption and intensity", table.drop(columns="key"))
    _draw(page, mean)
    _examples(page, images, other, name)
    _claims(page, table, mean)
    if detected:
        best = max(detected, key=lambda key: detected[key]["AUROC, entropy"])
        page.claim(
            "HMC is the best at detecting out-of-distribution images.",
            best == "hmc",
            f"AUROC of the entropy: {detected['hmc']['AUROC, entropy']:.4f}; best {detected[best]['method']}, "
            f"{detected[best]['AUROC, entropy']:.4f}.",
        )


def _predict(lab: Lab, sample: Sample, images: np.ndarray) -> np.ndarray:
    """Model average at `images (T, H, W)`, `(T, K)`."""
    like = lab.dataset.x_test
    inputs = torch.from_numpy(images).to(like.dtype).reshape(-1, *like.shape[1:])
    return sample.predict(inputs, most=MOST_DRAWS).mean((0, 1), dtype=np.float64)


def _other_images(lab: Lab, images: np.ndarray) -> tuple[np.ndarray | None, str, str]:
    """Images of the other data set (clothes for digits, digits for clothes) at this one's size and range; its name;
    and a sentence if they cannot be loaded."""
    from scipy.ndimage import zoom

    other = "fashion-mnist" if lab.dataset.name == "digits" else "digits"
    try:
        found = load(other, lab.settings.data_dir)
    except UserError as error:
        return None, other, f" Out-of-distribution images are left out: {error}."
    # There are few digits, so we use all of them; of the clothes, the test set.
    flat = torch.cat((found.x_train, found.x_test)) if other == "digits" else found.x_test
    flat = flat[: max(1000, len(images))]
    side = round(flat[0].numel() ** 0.5)
    square = flat.reshape(-1, side, side).numpy().astype(np.float64)
    scaled = zoom(square, (1, images.shape[1] / side, images.shape[2] / side), order=1)
    unit = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    low, high = float(images.min()), float(images.max())
    return (unit * (high - low) + low).astype(images.dtype), other, ""


def _detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """AUROC of the predictive entropy and of the top probability."""
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate((np.zeros(len(inside)), np.ones(len(outside))))
    both = np.concatenate((inside, outside))
    entropy = -(both * np.log(np.maximum(both, 1e-300))).sum(1)
    return {
        "AUROC, entropy": float(roc_auc_score(truth, entropy)),
        "AUROC, top probability": float(roc_auc_score(truth, -both.max(1))),
        "top probability, test set": float(inside.max(1).mean()),
        "top probability, OOD": float(outside.max(1).mean()),
    }


def _draw(page: Page, mean: pd.DataFrame) -> None:
    caption = "Means over six corruptions; intensity 0: the clean test set."
    with page.figure("shift", "Scores under corruption", caption, (10.2, 3.4)) as figure:
        axes = figure.subplots(1, 3)
        panels = (("accuracy", "test accuracy"), ("nll", "test NLL (nats)"), ("ece", "ECE"))
        for ax, (score, label) in zip(axes, panels, strict=True):
            for index, (method, part) in enumerate(mean.groupby("method", sort=False)):
                colour, marker, dashes = LOOKS[index]
                ax.plot(part["intensity"], part[score], ls=dashes, marker=marker, ms=5, color=colour, label=method)
            ax.set(xlabel="intensity", ylabel=label)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def _examples(page: Page, images: np.ndarray, other: np.ndarray | None, name: str) -> None:
    caption = "One test image under each corruption, intensities 0 to 5."
    caption += f" Last row: out-of-distribution images, {name}." if other is not None else ""
    with page.figure("examples", "What the corruptions look like", caption, (5.4, 6.4)) as figure:
        axes = figure.subplots(len(CORRUPTIONS) + (other is not None), 6)
        limits = {"vmin": float(images.min()), "vmax": float(images.max())}
        for row, corruption in enumerate(CORRUPTIONS):
            for column in range(6):
                shown = corrupt(images, corruption, column)[0] if column else images[0]
                axes[row, column].imshow(shown, **image_look(images), **limits)
            axes[row, 0].set_ylabel(corruption)
        if other is not None:
            for column in range(6):
                axes[-1, column].imshow(other[column], **image_look(images), **limits)
            axes[-1, 0].set_ylabel("OOD")
        for ax in axes.ravel():
            ax.set(xticks=[], yticks=[])


def _claims(page: Page, table: pd.DataFrame, mean: pd.DataFrame) -> None:
    names = {"hmc": "HMC", "sgd": "SGD", "ensemble": "deep ensemble"}
    worst = INTENSITIES[-1]
    rows = mean[["key", "intensity", "accuracy", "nll"]].to_numpy().tolist()
    found = {(key, intensity): (accuracy, nll) for key, intensity, accuracy, nll in rows}

    def line(intensity: int) -> str:
        told = {name: found[key, intensity] for key, name in names.items()}
        return ", ".join(f"{name} {accuracy:.3f} / {nll:.3f}" for name, (accuracy, nll) in told.items())

    lost = {key: found[key, 0][0] - found[key, worst][0] for key in names}
    page.claim(
        "Under corruption, HMC loses more accuracy than a deep ensemble, as in the paper.",
        bool(lost["hmc"] > lost["ensemble"]),
        f"Accuracy / NLL without corruption: {line(0)}; at intensity {worst}: {line(worst)}.",
    )
    grid = table[table["intensity"] == worst].pivot(index="corruption", columns="key", values="accuracy")
    gap = (grid["hmc"] - grid["ensemble"]).sort_values()
    page.claim(
        f"HMC's accuracy minus the ensemble's at intensity {worst}, by corruption:",
        None,
        ", ".join(f"{name} {value:+.3f}" for name, value in gap.items()) + ".",
    )
