"""Which features of the dense model rank loops as a classifier does: noise levels, blocks, pooling.

    python -m bench.frontier OUT --data DATA --work WORK ...     makes the images
    python -m bench.distance OUT --data DATA --work WORK ...     the same arguments

Every row of the frontier (both sides, samplers, steps, ratios) has its Frechet distance to real
test images on a classifier's features. Each candidate for the own distances is judged by its rank
correlation with that (Spearman), and with the classifier's distance to the same reference samples.

    blocks     every level and the middle of the U-Net, in the type that the machine is fast at
    noise      noise / signal of the calls
    pooling    the mean over all places; the standard deviation
    distance   Frechet in 8 directions (own_frechet.py), the plain Frechet distance of all features,
               kernel (own_kernel.py); of the middle block also Frechet in 4 and in 16 directions
    reference  OUT's clean samples (DPM-Solver++), and as many of DDIM with as many steps

    few        what the chosen features give where a set has 32 images: over draws of 32 of each
               row's images, the mean rank correlation

Writes distance.json and distance.md beside --out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.frontier.__main__ import arguments, models_of
from bench.frontier.figures import judge_of
from bench.frontier.rows import Images, Model
from bench.quality.judge import Judge
from diffc.data.clean import CleanSet
from diffc.data.precision import autocast, best_device, fast_dtype
from diffc.data.randomness import keyed_noise
from diffc.measure.quality import own_frechet
from diffc.measure.quality.features import statistics
from diffc.measure.quality.frechet import frechet_distance
from diffc.measure.quality.own_features import KEYS, NOISE_TO_SIGNAL
from diffc.measure.quality.own_frechet import MOST_DIRECTIONS, Directions, frechet_of_few
from diffc.measure.quality.own_kernel import METRIC as KERNEL
from diffc.models.denoiser import Denoiser
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN
from diffc_runtime.files import write_text

Rows = NDArray[np.float64]
NOISE = (0.1, NOISE_TO_SIGNAL, 0.6)
FEW, DRAWS, BATCH = 32, 10, 64
DDIM = "ddim:20"
CHOSEN = ("mid_block", NOISE_TO_SIGNAL, "mean")
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3)),
    "deviation": lambda x: x.flatten(2).std(2),
}


def along(most: int) -> Measure:
    """The own Frechet distance in at most so many directions of a reference."""

    def of(reference: Rows, n: int) -> Distance:
        directions = Directions.of(reference, n, most)
        return lambda ours: frechet_of_few(ours, reference, directions).value

    return of


def plain(reference: Rows, n: int) -> Distance:
    """The plain Frechet distance of all features."""
    of_reference = statistics(reference, "own")
    return lambda ours: frechet_distance(statistics(ours, "own"), of_reference)


def kernel(reference: Rows, n: int) -> Distance:
    """The own kernel distance."""
    return lambda ours: KERNEL.distance(ours, reference).value


Distance = Callable[[Rows], float]
Measure = Callable[[Rows, int], Distance]
DISTANCES: dict[str, Measure] = {
    f"Frechet, {MOST_DIRECTIONS} directions": along(MOST_DIRECTIONS),
    "plain Frechet": plain,
    "kernel": kernel,
}
OF_THE_MIDDLE: dict[str, Measure] = {
    "Frechet, 4 directions": along(4),
    "Frechet, 16 directions": along(16),
}
"""Tried on the middle block alone."""


class Tapped:
    """The dense model, and its blocks' activations, pooled in every way, at every noise."""

    def __init__(self, dense: Denoiser, work: Path) -> None:
        self.dense, self.work = dense, work / "features"
        self.work.mkdir(parents=True, exist_ok=True)
        process = dense.process
        ratio = process.noise / process.signal
        self.levels = {noise: int((ratio - noise).abs().argmin()) for noise in NOISE}
        children = dense.model.named_modules()
        self.blocks = [n for n, _ in children if n == "mid_block" or _is_level(n)]

    def features(self, name: str, images: Tensor) -> dict[tuple[str, float, str], Rows]:
        """(block, noise, pooling) -> (N, D), kept on disk under ``name``."""
        path = self.work / f"{name}.npz"
        if not path.exists():
            arrays = {
                f"{block} {noise} {pool}": rows
                for noise, t in self.levels.items()
                for (block, pool), rows in self._at(t, images).items()
            }
            part = path.with_suffix(".part.npz")
            np.savez(part, **arrays)
            part.replace(path)
        with np.load(path) as arrays:
            keys = [key.split() for key in arrays]
            return {(b, float(n), p): arrays[f"{b} {n} {p}"].astype(np.float64) for b, n, p in keys}

    @torch.inference_mode()
    def _at(self, t: int, images: Tensor) -> dict[tuple[str, str], Rows]:
        device, taken = best_device(), dict[tuple[str, str], list[Tensor]]()
        for start in range(0, len(images), BATCH):
            clean = images[start : start + BATCH]
            index = range(start, start + len(clean))
            noise = keyed_noise(((0, KEYS, i) for i in index), clean.shape[1:])
            times = torch.full((len(clean),), t)
            inputs = self.dense.noised(clean.to(device), noise.to(device), times, {})
            for block, output in self._outputs(inputs).items():
                for pool, pooled in POOLS.items():
                    taken.setdefault((block, pool), []).append(pooled(output))
        return {key: torch.cat(parts).float().cpu().numpy() for key, parts in taken.items()}

    def _outputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}

        def hook(name: str) -> Callable[..., None]:
            def keep(module: object, given: object, output: Any) -> None:
                outputs[name] = (output[0] if isinstance(output, tuple) else output).float()

            return keep

        model = self.dense.model
        handles = [model.get_submodule(n).register_forward_hook(hook(n)) for n in self.blocks]
        try:
            with autocast(best_device(), fast_dtype(best_device())):
                self.dense.call(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return outputs


def _is_level(name: str) -> bool:
    head, _, place = name.partition(".")
    return head in ("down_blocks", "up_blocks") and place.isdigit()


def correlations(models: Sequence[Model], images: Images, judge: Judge, tapped: Tapped,
                 references: dict[str, Tensor]) -> dict[str, Any]:  # fmt: skip
    """Every candidate's rank correlations, and those of the classifier with itself."""
    rows = [(model, loop) for model in models for loop in model.loops]
    sets = [images.read(model, loop) for model, loop in rows]
    names = [images.path(model, loop).stem for model, loop in rows]
    ours = [tapped.features(name, some) for name, some in zip(names, sets, strict=True)]
    classifier = [judge.features(some) for some in sets]
    real = [frechet_distance(statistics(some, "classifier"), judge.real) for some in classifier]
    figures: dict[str, Any] = {"rows": [model.key(loop) for model, loop in rows], "real": real}
    for label, samples in references.items():
        theirs = tapped.features(f"reference-{label.split()[0]}-{len(samples)}", samples)
        of_samples = statistics(judge.features(samples), "classifier")
        same = [frechet_distance(statistics(some, "classifier"), of_samples) for some in classifier]
        candidates = []
        for key, reference in theirs.items():
            tried = DISTANCES | (OF_THE_MIDDLE if key[0] == CHOSEN[0] else {})
            for name, measure in tried.items():
                distance = measure(reference, len(sets[0]))
                values = [distance(own[key]) for own in ours]
                candidates.append({"block": key[0], "noise": key[1], "pooling": key[2],
                                   "distance": name, "real": spearman(values, real),
                                   "reference": spearman(values, same)})  # fmt: skip
        figures[label] = {
            "n": len(samples),
            "classifier to the reference, with the classifier to real images": spearman(same, real),
            "few": few(ours, theirs, real, classifier, judge),
            "candidates": candidates,
        }
    return figures


def few(ours: Sequence[dict], theirs: dict, real: Sequence[float], classifier: Sequence[Rows],
        judge: Judge) -> dict[str, float]:  # fmt: skip
    """Mean rank correlations with the classifier's distance of whole sets, from few images."""
    own_few, kernel_few, classifier_few = [], [], []
    for draw in range(DRAWS):
        index = np.random.default_rng(draw).permutation(len(classifier[0]))[:FEW]
        some = [features[CHOSEN][index] for features in ours]
        own_few.append(spearman([own_frechet.METRIC.distance(x, theirs[CHOSEN]).value
                                 for x in some], real))  # fmt: skip
        kernel_few.append(spearman([KERNEL.distance(x, theirs[CHOSEN]).value for x in some], real))
        by_class = [statistics(x[index], "classifier") for x in classifier]
        classifier_few.append(spearman([frechet_distance(x, judge.real) for x in by_class], real))
    means = (own_few, kernel_few, classifier_few)
    labels = ("own-frechet", "own-kernel", "classifier")
    return {label: float(np.mean(some)) for label, some in zip(labels, means, strict=True)}


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return round(float(spearmanr(one, other).statistic), 4)


def table(figures: dict[str, Any], how: dict[str, Any]) -> str:
    """Markdown: what is used, what the reference decides, and the best of the others."""
    lines = [
        f"{len(figures['rows'])} loops, {how['images']} images each; rank correlation (Spearman) "
        "with the classifier's Frechet distance to real test images, and to the same reference.",
        "",
    ]
    for label in how["references"]:
        part = figures[label]
        words = "classifier to the reference, with the classifier to real images"
        few = ", ".join(f"{name} {value:.3f}" for name, value in part["few"].items())
        lines += [
            f"### Reference: {label}, {part['n']} samples", "",
            f"- the classifier's distance to this reference, with real images: {part[words]:.3f}",
            f"- {FEW} images a row, mean of {DRAWS} draws, with the classifier's of all: {few}", "",
            "| block | noise / signal | pooling | distance | to real images | to the reference |",
            "|" + "---|" * 6,
        ]  # fmt: skip
        candidates = part["candidates"]
        chosen = [c for c in candidates if (c["block"], c["noise"], c["pooling"]) == CHOSEN]
        others = sorted((c for c in candidates if c not in chosen),
                        key=lambda c: -min(c["real"], c["reference"]))  # fmt: skip
        for mark, some in (("**", chosen), ("", others[:10]), ("", others[-3:])):
            lines += [
                f"| {mark}{c['block']}{mark} | {c['noise']} | {c['pooling']} | {c['distance']} "
                f"| {c['real']:.3f} | {c['reference']:.3f} |"
                for c in some
            ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """See the top."""
    args = arguments()
    models, images = models_of(args), Images(args.work, args.images, args.seed)
    images.make(models)
    dense = models[0]
    judge, right = judge_of(args.data, args.work, args.train_images, args.epochs, dense)
    clean = CleanSet.load(args.run / STATE / CLEAN)
    other = Images(args.work, len(clean), args.seed + 1)
    ddim = Model(dense.label, dense.folder, (DDIM,))
    other.make([ddim])
    references = {"clean samples (DPM-Solver++)": clean.sample,
                  f"{DDIM} from other noise": other.read(ddim, DDIM)}  # fmt: skip
    figures = correlations(models, images, judge, Tapped(dense.open(), args.work), references)
    how = {"images": args.images, "seed": args.seed, "classifier_accuracy": right,
           "references": list(references), "own_reference": clean.origin}  # fmt: skip
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "how": how,
        **figures,
    }
    out = args.out.with_name("distance")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    write_text(out.with_suffix(".md"), table(figures, how))
    print(table(figures, how))


if __name__ == "__main__":
    main()
