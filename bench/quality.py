"""Which pruning and which training keep quality, at equal MACs, equal steps and equal data.

    python bench/quality.py MODEL --data DATA --minutes 60 [--steps 400] [--samples 256]

MODEL: a diffusers folder, ``demo``, or a UNet2DModel config.json, which is then trained first.
DATA: a folder with train/CLASS and test/CLASS images (CIFAR-10), or one with Fashion-MNIST's
``*-ubyte.gz`` files. Every row has the same data, noise and number of steps.

    rows       dense; trained from scratch (our widths); random, magnitude, taylor, reference, each
               finetuned plainly (the noise loss, evenly over t, as the paper); ours; ours at half
               of the steps; and ours' widths finetuned plainly, to tell pruning from distillation
    columns    parameters, MACs, latency (PyTorch on this machine, batch 1, rows interleaved),
               Frechet distance to the test images on the features of a small classifier that this
               script trains (its test accuracy is in the results), SSIM to the dense model
    curves     SSIM and Frechet distance at a quarter, a half, three quarters and all of the steps

Everything lives in ``--work``: stop it at any moment, run the same command, and it goes on. After
``--minutes`` it stops by itself; results are written with whatever rows are done.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import diffc
from diffc.data.clean import CleanSet
from diffc.data.images import read_images
from diffc.data.randomness import keyed_generator, keyed_noise
from diffc.data.sampling import deterministic_scheduler, sample, sampler_info
from diffc.distill.options import DistillOptions, Losses
from diffc.distill.train import distill
from diffc.events import drain
from diffc.measure.frechet import features_of, frechet_distance
from diffc.measure.frechet import statistics as feature_statistics
from diffc.measure.quality import EVALUATION, compare_samples
from diffc.models.diffusion import process_from_scheduler
from diffc.models.families import family as family_of
from diffc.models.load import load_denoiser
from diffc.models.source import find

PLAIN = {"losses": Losses(output=0, noise=1), "weighting": "none"}
SCRATCH = "scratch"


@dataclass(frozen=True)
class Row:
    """One line of the table: how channels are chosen, and how the rest is trained."""

    name: str
    prune: dict
    train: dict
    share: float = 1.0  # of the steps


def importance(method: str, allocate: str) -> dict:
    return {"importance": {"method": method}, "allocate": allocate}


OURS = importance("diff-pruning", "global")
ROWS = [
    Row(SCRATCH, OURS, PLAIN),
    Row("random + finetuning", importance("random", "uniform"), PLAIN),
    Row("magnitude + finetuning", importance("magnitude", "uniform"), PLAIN),
    Row("taylor + finetuning", importance("taylor", "uniform"), PLAIN),
    Row("reference + finetuning", importance("reference", "uniform"), PLAIN),
    Row("ours + finetuning", OURS, PLAIN),
    Row("ours", OURS, {}),
    Row("ours, half the steps", OURS, {}, share=0.5),
]


class OutOfTime(Exception):
    """The limit given by --minutes has passed; what is done is kept."""


class Study:
    """The inputs, the folder of results, and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.deadline = time.monotonic() + 60 * args.minutes
        self.work.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def train_set(self) -> CleanSet:
        return self.cached_set("train", self.args.train_images)

    def test_set(self) -> CleanSet:
        return self.cached_set("test", self.args.test_images)

    def cached_set(self, split: str, limit: int) -> CleanSet:
        path = self.work / f"{split}-{limit}.safetensors"
        if not path.exists():
            read_split(self.args.data, split, limit).save(path)
        return CleanSet.read(path)


def read_split(folder: Path, split: str, limit: int) -> CleanSet:
    """Images with ``class_labels``, from class folders or from Fashion-MNIST's files."""
    prefix = {"train": "train", "test": "t10k"}[split]
    packed = folder / f"{prefix}-images-idx3-ubyte.gz"
    if not packed.exists():
        return read_images(folder / split, (3, 32, 32), limit=limit, classes=1000)[0]
    pixels = np.frombuffer(gzip.decompress(packed.read_bytes())[16:], np.uint8)
    packed_labels = folder / f"{prefix}-labels-idx1-ubyte.gz"
    labels = np.frombuffer(gzip.decompress(packed_labels.read_bytes())[8:], np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))[:limit]
    images = np.pad(pixels.reshape(-1, 1, 28, 28)[order], ((0, 0), (0, 0), (2, 2), (2, 2)))
    sample_ = torch.from_numpy(images.astype(np.float32) / 127.5 - 1)
    return CleanSet(sample_, {"class_labels": torch.tensor(labels[order].astype(np.int64))}, split)


def without_labels(clean: CleanSet) -> CleanSet:
    return CleanSet(clean.sample, {}, clean.origin)


class Classifier(nn.Module):
    """A small convolutional network; ``features`` (B, 128) are what the distance is taken on."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths, layers = (channels, 32, 64, 128), []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def classifier(study: Study) -> tuple[Classifier, float]:
    """Trained on the training images; its accuracy on the test images is part of the results."""
    train, test = study.train_set(), study.test_set()
    labels = train.conditions["class_labels"]
    torch.manual_seed(0)
    network = Classifier(train.sample.shape[1], int(labels.max()) + 1).to(study.device)
    path = study.work / "classifier.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
    else:
        fit(network, train, study)
        save_file(network.state_dict(), path)
    network.eval()
    with torch.no_grad():
        said = torch.cat([network(x.to(study.device)).argmax(1) for x in test.sample.split(256)])
    return network, float((said.cpu() == test.conditions["class_labels"]).float().mean())


def fit(network: Classifier, train: CleanSet, study: Study) -> None:
    epochs, batch = study.args.classifier_epochs, 128
    steps = epochs * len(train) // batch
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        study.tick()
        images, conditions = train.draw(batch, keyed_generator(0, step))
        flip = torch.rand(batch, 1, 1, 1, generator=keyed_generator(1, step)) < 0.5
        images = torch.where(flip, images.flip(3), images).to(study.device)
        target = conditions["class_labels"].to(study.device)
        loss = nn.functional.cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


class Evaluator:
    """Samples of a model from fixed noise, and its two figures."""

    def __init__(self, study: Study, model: Path) -> None:
        self.study = study
        self.network, self.accuracy = classifier(study)
        config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
        self.scheduler = deterministic_scheduler(config, study.args.sampling_steps)
        self.real = self.features(study.test_set().sample)
        self.dense: Tensor | None = None

    def features(self, images: Tensor):
        @torch.no_grad()
        def extract(x: Tensor):
            return self.network.features(x.to(self.study.device)).double().cpu().numpy()

        return feature_statistics(drain(features_of(extract, images)), "classifier")

    def samples(self, model: nn.Module) -> Tensor:
        shape, made = self.study.test_set().sample.shape[1:], []
        model = model.to(self.study.device).eval()
        for start in range(0, self.study.args.samples, 64):
            self.study.tick()
            index = range(start, min(start + 64, self.study.args.samples))
            noise = keyed_noise(((0, EVALUATION, i) for i in index), shape)
            call = lambda x, t: model(x, t, return_dict=False)[0]  # noqa: E731
            made.append(sample(call, self.scheduler, noise.to(self.study.device)).cpu())
        return torch.cat(made)

    def figures(self, model: nn.Module) -> dict:
        images = self.samples(model)
        found = {"frechet": frechet_distance(self.features(images), self.real)}
        if self.dense is None:
            self.dense = images
            return found
        return found | {"ssim": compare_samples(self.dense, images)["ssim"]}


def dense_folder(study: Study) -> Path:
    """The dense pipeline's folder; a config.json is trained on the training images first."""
    given = study.args.model
    if not given.endswith(".json"):
        return find(given).folder
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    folder = study.work / "dense"
    if not (folder / "model_index.json").exists():
        torch.manual_seed(0)
        model = UNet2DModel.from_config(json.loads(Path(given).read_text()))
        config = {**DDPMScheduler().config, "_class_name": "DDPMScheduler"}
        options = DistillOptions(
            steps=study.args.dense_steps, batch=128, learning_rate=2e-4, warmup=1000,
            ema_decay=0.9995, checkpoint_every=1000, timesteps="uniform", **PLAIN,
        )  # fmt: skip
        train(study, model, model, config, options, study.work / "dense-training")
        DDPMPipeline(model.cpu(), DDPMScheduler()).save_pretrained(folder)
    return folder


def train(study, teacher, student, config, options, folder) -> Iterator[int]:
    """Run to the end; OutOfTime leaves the checkpoints from which the next call goes on."""
    for _ in training(study, teacher, student, config, options, folder):
        pass


def training(study, teacher, student, config, options, folder) -> Iterator[int]:
    """Yield each step whose checkpoint has just been written."""
    clean = without_labels(study.train_set())
    process = process_from_scheduler(config)
    family = family_of(type(student).__name__)
    last = None
    for event in distill(teacher, student, family, clean, process, options, folder):
        if last is not None and last % options.checkpoint_every == 0:
            study.tick()  # only now: the checkpoint is on disk
            yield last
        last = int(event.done)


def calibration(study: Study) -> Path:
    """256 training images, on which every row's importance is measured."""
    path = study.work / "calibration.npz"
    if not path.exists():
        np.savez(path, x=study.train_set().sample[:256].numpy())
    return path


def pruned(study: Study, row: Row, model: Path) -> nn.Module:
    """The row's student before training."""
    out = study.work / "pruned" / row.name.split(",")[0].replace(" ", "-")
    if not (out / "pruned").exists():
        options = {"prune": row.prune, "data": {"source": str(calibration(study))}}
        diffc.compile(str(model), ratio=study.args.ratio, out=out, stop="prune", options=options)
    student = load_denoiser(find(str(out / "pruned")))
    if row.name == SCRATCH:
        torch.manual_seed(0)
        for module in student.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return student


def run_row(study: Study, row: Row, model: Path, evaluator: Evaluator) -> dict:
    """Train and measure one row; its curve grows on disk as it goes."""
    steps = max(4, int(study.args.steps * row.share) // 4 * 4)
    options = DistillOptions(
        **{"steps": steps, "batch": study.args.batch, "checkpoint_every": steps // 4, **row.train}
    )
    folder = study.work / "training" / row.name.replace(" ", "-")
    curve_file = folder / "curve.json"
    curve = json.loads(curve_file.read_text()) if curve_file.exists() else {}
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    teacher, student = load_denoiser(find(str(model))), pruned(study, row, model)
    probe = pruned(study, row, model)
    for step in training(study, teacher, student, config, options, folder):
        average = load_file(folder / f"step-{step:08d}.safetensors")
        own = {name[4:]: value for name, value in average.items() if name.startswith("ema.")}
        probe.load_state_dict(own)
        curve[str(step)] = evaluator.figures(probe)
        curve_file.write_text(json.dumps(curve))
    figures = evaluator.figures(student)
    curve[str(steps)] = figures
    curve_file.write_text(json.dumps(curve))
    return {"steps": steps, **figures, "curve": curve, **sizes(study, student)}


def sizes(study: Study, model: nn.Module) -> dict:
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    x, t = (
        torch.zeros(1, *study.test_set().sample.shape[1:], device=device),
        torch.zeros(1, device=device),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2}


def latencies(study: Study, models: dict[str, nn.Module], rounds: int = 15) -> dict[str, float]:
    """Milliseconds, median over rounds in which every row has its turn; batch 1, PyTorch eager."""
    shape = study.test_set().sample.shape[1:]
    x, t = torch.zeros(1, *shape, device=study.device), torch.zeros(1, device=study.device)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            with torch.no_grad():
                model.to(study.device)(x, t, return_dict=False)[0].cpu()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| row | steps | parameters | MACs | latency ms | Frechet | SSIM to dense |",
        "|" + "---|" * 7,
    ]
    for name, row in results["rows"].items():
        ssim = row.get("ssim")
        shown = f"{ssim['mean']:.3f} [{ssim['ci95'][0]:.3f}, {ssim['ci95'][1]:.3f}]" if ssim else ""
        latency = f"{row['latency_ms']:.1f}" if "latency_ms" in row else ""
        lines.append(
            f"| {name} | {row.get('steps', '')} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['macs'] / 1e6:.0f} M | {latency} | {row['frechet']:.3f} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Curves of both figures against steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for name, row in results["rows"].items():
        curve = sorted((int(step), found) for step, found in row.get("curve", {}).items())
        steps = [step for step, _ in curve]
        axes[0].plot(steps, [found["ssim"]["mean"] for _, found in curve], marker="o", label=name)
        axes[1].plot(steps, [found["frechet"] for _, found in curve], marker="o", label=name)
    for axis, title in zip(axes, ("SSIM to the dense model", "Frechet distance"), strict=True):
        axis.set_xlabel("training steps")
        axis.set_title(title)
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def study_all(study: Study, results: dict) -> None:
    model = dense_folder(study)
    evaluator = Evaluator(study, model)
    dense = load_denoiser(find(str(model)))
    info = sampler_info(evaluator.scheduler).as_dict()
    results |= {"classifier_test_accuracy": evaluator.accuracy, "samples": study.args.samples}
    results |= {"batch": study.args.batch, "sampler": info, "seed": 0}
    results["rows"]["dense"] = {**evaluator.figures(dense), **sizes(study, dense)}
    wanted = [row for row in ROWS if not study.args.rows or row.name in study.args.rows]
    for row in sorted(wanted, key=lambda row: row.name not in ("ours", "reference + finetuning")):
        print(f"{time.strftime('%H:%M:%S')}  {row.name}", flush=True)
        results["rows"][row.name] = run_row(study, row, model, evaluator)
        write(study, results)
    models = {"dense": dense} | {row.name: pruned(study, row, model) for row in wanted}
    for name, milliseconds in latencies(study, models).items():
        results["rows"][name]["latency_ms"] = milliseconds


def write(study: Study, results: dict) -> None:
    out = study.args.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(results))
    plot(results, out.with_suffix(".png"))


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=DistillOptions().steps)
    parser.add_argument("--batch", type=int, default=DistillOptions().batch)
    parser.add_argument("--dense-steps", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--train-images", type=int, default=50_000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--classifier-epochs", type=int, default=4)
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--work", type=Path, default=Path("build/quality"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/quality")
    study = Study(parser.parse_args())
    results: dict = {"model": Path(study.args.model).name, "rows": {}, "complete": False}
    try:
        study_all(study, results)
        results["complete"] = True
    except OutOfTime:
        print("the time given is over; the same command goes on from here")
    if results["rows"]:
        write(study, results)
        print(table(results))


if __name__ == "__main__":
    main()
