"""The figures of each row's images: a classifier's distance, SSIM to dense, the own distances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from bench.frontier.clock import reference_row
from bench.frontier.rows import DENSE, Images, Model
from bench.quality.judge import Classifier, Judge, accuracy, fit, read_split
from bench.quality.study import fingerprint, save_whole
from diffc.data.clean import CleanSet
from diffc.data.precision import best_device
from diffc.measure.quality.own_features import GivenRows, middle_features, own_reference
from diffc.measure.quality.own_frechet import METRIC as OWN_FRECHET
from diffc.measure.quality.own_kernel import METRIC as OWN_KERNEL
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.statistics import estimate
from diffc_export.events import drain

OWN = (OWN_FRECHET, OWN_KERNEL)


def judge_of(data: Path, work: Path, images: int, epochs: int, dense: Model) -> tuple[Judge, float]:
    """The classifier, trained on the data's training images, and its accuracy."""
    test = read_split(data, "test", min(images, 10_000))
    path = work / f"classifier-{fingerprint(data)}-{images}-{epochs}.safetensors"
    labels = test.conditions["class_labels"]
    torch.manual_seed(0)
    network = Classifier(test.sample.shape[1], int(labels.max()) + 1).to(best_device())
    if not path.exists():
        fit(network, read_split(data, "train", images), epochs, best_device(), lambda: None)
        save_whole(network.state_dict(), path)
    network.load_state_dict(load_file(path))
    network.eval()
    judge = Judge(network, test, dense.source.scheduler, 50, best_device(), lambda: None)
    return judge, accuracy(network, test, best_device())


def measure(
    models: Sequence[Model], images: Images, judge: Judge, clean: CleanSet
) -> dict[str, Any]:
    """Row -> figures of its images.

    clean: The reference samples of the own distances, as a run's report has them.
    """
    dense = next(model for model in models if model.label == DENSE)
    denoiser, unit = dense.open(), reference_row(models)
    rows = GivenRows({}, {})
    reference = drain(
        own_reference(denoiser, clean.sample, rows, of=clean.origin, digest=dense.source.digest)
    )
    best = images.read(dense, unit.split()[-1])
    figures = {}
    for model in models:
        for loop in model.loops:
            samples = images.read(model, loop)
            features = drain(middle_features(denoiser, samples, rows))
            row: dict[str, Any] = {
                "model": model.label,
                "loop": loop,
                "frechet": judge.frechet(samples),
            }
            row["ssim"] = estimate(SSIM.of_pairs(best, samples)).as_dict()
            for metric in OWN:
                own = metric.distance(features, reference.features)
                row[metric.name] = {"value": own.value, "se": own.error}
            figures[model.key(loop)] = row
            print(f"{model.key(loop)}: {row['frechet']['value']:.2f}", flush=True)
    return figures


def ranks(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Spearman's correlation of each own distance with the classifier's, over all rows."""
    from scipy.stats import spearmanr

    classifier = [row["frechet"]["value"] for row in rows]
    return {
        metric.name: float(
            spearmanr(classifier, [row[metric.name]["value"] for row in rows]).statistic
        )
        for metric in OWN
    }


def rounding(images: Images, model: Model, judge: Judge, n: int) -> dict[str, Any]:
    """What the fast type of sampling changes: the same images with calls in float32."""
    loop = model.loops[-2:][0]
    exact = images.sample(model.open(), model.loop(loop), torch.float32, n)
    fast = images.read(model, loop)[:n]
    values = np.asarray(SSIM.of_pairs(exact, fast))
    return {
        "loop": loop,
        "n": n,
        "ssim": float(values.mean()),
        "frechet_float32": judge.frechet(exact)["value"],
        "frechet": judge.frechet(fast)["value"],
    }
