"""Which pruning and which training keep quality, at equal MACs, equal steps and equal data.

    python bench/quality.py --model demo --data /usr/share/datasets/fashion-mnist --minutes 60
    python bench/quality.py --model cifar --data CIFAR --minutes 600 --out FOLDER/quality-cifar
    python bench/quality.py (the same arguments) --only latency        on a quiet machine

--model: ``demo``, a diffusers folder, or ``cifar``: the paper's 35.7 M UNet, trained here first
(EMA, bf16 where the GPU has it). --data: see judge.py; every row has the same data, noise and
steps.

    rows       dense; then, each finetuned plainly (the noise loss, evenly over t, as the paper):
               our widths from new weights ("from scratch"), random, magnitude, torch-pruning's own
               Taylor pruner, and the published Diff-Pruning (reference, also at a lower learning
               rate); ours, with the losses of the recipe unet2d; ours in half of the steps; ours
               without the feature loss; ours' pruning with plain finetuning
    columns    parameters, MACs, latency (an engine call, batch 1, rows in turn), Frechet distance
               to the test images on the features of a small classifier that is trained here (its
               test accuracy is in the results), SSIM to the dense model from the same noise
    curves     both figures at a quarter, a half, three quarters and all of the steps

Everything lives in --work: stop or kill it at any moment, run the same command, and it goes on from
the last checkpoint of the row at hand. After --minutes it stops by itself. Results are written
after every row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from judge import Classifier, Judge, accuracy, fit, read_split
from safetensors.torch import load_file, save_file
from stock_taylor import add_gradients, macs, stock_at_macs
from torch import Tensor, nn

import diffc
from diffc.chain.front import save_compressed
from diffc.data.clean import CleanSet
from diffc.distill.blocks import kept_channels
from diffc.distill.options import DistillOptions, Losses
from diffc.distill.train import distill
from diffc.events import drain
from diffc.measure.environment import read_environment
from diffc.measure.quality import INTENSITIES
from diffc.models.diffusion import process_from_scheduler
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.source import Source, find
from diffc.prune.plan import Plan
from diffc.recipe import recipe_file
from diffc.stages import atomic_write

PLAIN = {"losses": Losses(output=0, noise=1), "weighting": "none"}
SCRATCH, STOCK = "from scratch", "taylor, stock torch-pruning"
DISTILLED = {"losses": recipe_file("unet2d").options["distill"]["losses"]}
OURS, HALF, REFERENCE = "ours", "ours, half the steps", "reference + finetuning"
CALIBRATION = 256
KEPT = ("model", "ratio", "steps", "batch", "dense_steps", "samples", "curve_samples",
        "sampling_steps", "train_images", "test_images", "classifier_epochs")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: how channels are chosen, and how the rest is trained.

    prune: the recipe's part, or None for torch-pruning's own. cut: rows of one name share a model.
    """

    name: str
    cut: str
    prune: dict | None
    train: dict = field(default_factory=lambda: dict(PLAIN))
    share: float = 1.0  # of the steps


def ranked(method: str, allocate: str) -> dict:
    return {"importance": {"method": method}, "allocate": allocate}


OUR_PRUNING = ranked("diff-pruning", "global")
ROWS = [  # in the order of work: what the claims need comes first
    Row(REFERENCE, "reference", ranked("reference", "uniform")),
    Row(OURS, "ours", OUR_PRUNING, DISTILLED),
    Row(HALF, "ours", OUR_PRUNING, DISTILLED, share=0.5),
    Row(f"{STOCK} + finetuning", "stock", None),
    Row("magnitude + finetuning", "magnitude", ranked("magnitude", "uniform")),
    Row("random + finetuning", "random", ranked("random", "uniform")),
    Row(SCRATCH, "ours", OUR_PRUNING),
    Row("ours + finetuning", "ours", OUR_PRUNING),
    Row("ours, no feature loss", "ours", OUR_PRUNING, {}),
    Row("reference + finetuning, lr 3e-4", "reference", ranked("reference", "uniform"),
        {**PLAIN, "learning_rate": 3e-4}),
]  # fmt: skip


class OutOfTime(Exception):
    """The limit given by --minutes has passed; what is done is kept."""


class Study:
    """The inputs, the folder of results, and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.deadline = time.monotonic() + 60 * args.minutes
        self.work.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = {name: getattr(args, name) for name in KEPT}
        self.settings["ssim_on"] = list(INTENSITIES)  # rows of another scale are not to be mixed
        self._same_settings()

    def _same_settings(self) -> None:
        path = self.work / "settings.json"
        if path.exists() and json.loads(path.read_text()) != self.settings:
            raise SystemExit(f"{path} holds another study's settings: give another --work")
        atomic_write(path, json.dumps(self.settings, indent=1))

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime

    @cached_property
    def train_set(self) -> CleanSet:
        return self._set("train", self.args.train_images)

    @cached_property
    def test_set(self) -> CleanSet:
        return self._set("test", self.args.test_images)

    def _set(self, split: str, limit: int) -> CleanSet:
        path = self.work / f"{split}-{limit}.safetensors"
        if not path.exists():
            part = path.with_suffix(".part")
            read_split(self.args.data, split, limit).save(part)
            part.replace(path)
        return CleanSet.read(path)

    @cached_property
    def images(self) -> CleanSet:
        """The training images without their labels."""
        return CleanSet(self.train_set.sample, {}, self.train_set.origin)

    @cached_property
    def dense_folder(self) -> Path:
        if self.args.model != "cifar":
            return find(self.args.model).folder
        folder = self.work / "dense"
        if not (folder / "model_index.json").exists():
            train_dense(self, folder)
        return folder

    @cached_property
    def source(self) -> Source:
        return find(str(self.dense_folder))

    @cached_property
    def process(self):
        return process_from_scheduler(self.source.scheduler)

    @cached_property
    def judge(self) -> Judge:
        labels = self.train_set.conditions["class_labels"]
        torch.manual_seed(0)
        network = Classifier(self.train_set.sample.shape[1], int(labels.max()) + 1).to(self.device)
        path = self.work / "classifier.safetensors"
        if not path.exists():
            fit(network, self.train_set, self.args.classifier_epochs, self.device, self.tick)
            save_whole(network.state_dict(), path)
        network.load_state_dict(load_file(path))
        network.eval()
        return Judge(network, self.test_set, self.source.scheduler, self.args.sampling_steps,
                     self.device, self.tick)  # fmt: skip

    @cached_property
    def dense_samples(self) -> Tensor:
        path = self.work / "dense-samples.safetensors"
        if not path.exists():
            made = self.judge.samples(load_denoiser(self.source), self.args.samples)
            save_whole({"samples": made}, path)
        return load_file(path)["samples"]


def save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part)
    part.replace(path)


# --- training -------------------------------------------------------------------------------------


def cifar_unet() -> nn.Module:
    """Ho et al. 2020's network for CIFAR-10, 35.7 M parameters, with new weights."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, downsample_padding=0,
        block_out_channels=(128, 256, 256, 256), norm_num_groups=32, norm_eps=1e-6,
        attention_head_dim=None, flip_sin_to_cos=False, freq_shift=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def train_dense(study: Study, folder: Path) -> None:
    """A DDPM of the training images: Ho et al.'s recipe but for the step count and the cosine."""
    from diffusers import DDPMPipeline, DDPMScheduler

    torch.manual_seed(0)
    model, scheduler = cifar_unet(), DDPMScheduler()
    steps = study.args.dense_steps
    options = DistillOptions(
        steps=steps, batch=study.args.dense_batch, learning_rate=4e-4,
        warmup=min(1000, steps // 10), ema_decay=0.9995, timesteps="uniform",
        checkpoint_every=min(500, max(1, steps // 4)),
        **PLAIN,
    )  # fmt: skip
    config = {**scheduler.config, "_class_name": "DDPMScheduler"}
    process = process_from_scheduler(config)
    for _ in training(study, model, model, process, options, study.work / "dense-training"):
        pass
    DDPMPipeline(model.cpu().to(memory_format=torch.contiguous_format), scheduler).save_pretrained(
        folder
    )


def training(study, teacher, student, process, options, folder, kept=None) -> Iterator[int]:
    """Yield each step whose checkpoint has just been written; OutOfTime comes only there."""
    family = family_of(type(student).__name__)
    last, shown = None, time.monotonic()
    work = distill(
        teacher, student, family, study.images, process, options, folder, kept=kept
    )  # fmt: skip
    for event in work:
        if last is not None and last % options.checkpoint_every == 0:
            study.tick()
            yield last
        last = int(event.done)
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            said = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
            print(f"{time.strftime('%H:%M:%S')}    step {last}: {said}", flush=True)


def pruned(study: Study, row: Row) -> nn.Module:
    """The row's student before training."""
    out = study.work / "pruned" / row.cut
    if not (out / "pruned" / "pruning.json").exists():
        print(f"{time.strftime('%H:%M:%S')}    pruning: {row.cut}", flush=True)
        (prune_stock if row.prune is None else prune_by_diffc)(study, row, out)
    student = load_denoiser(find(str(out / "pruned")))
    if row.name == SCRATCH:
        torch.manual_seed(0)
        for module in student.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return student


def prune_by_diffc(study: Study, row: Row, out: Path) -> None:
    """On the first training images, as every row."""
    data = study.work / "calibration.npz"
    if not data.exists():
        np.savez(data, x=study.images.sample[:CALIBRATION].numpy())
    options = {"prune": row.prune, "data": {"source": str(data)}}
    diffc.compile(
        str(study.dense_folder), ratio=study.args.ratio, out=out, stop="prune", options=options
    )


def prune_stock(study: Study, row: Row, out: Path) -> None:
    dense = load_denoiser(study.source)
    generator = torch.Generator().manual_seed(0)
    add_gradients(dense, study.process, study.images.sample[:8], generator)
    example = torch.zeros(1, *study.images.sample.shape[1:])
    model, ratio = stock_at_macs(dense, example, 1 - study.args.ratio)
    save_compressed(model, study.source, out / "pruned", {"channel_ratio": ratio})


def run_row(study: Study, row: Row) -> dict:
    """Train and measure one row; its curve grows on disk as it goes."""
    folder = study.work / "training" / row.name.replace(" ", "-").replace(",", "")
    if (folder / "row.json").exists():
        return json.loads((folder / "row.json").read_text())
    steps = max(4, int(study.args.steps * row.share) // 4 * 4)
    options = DistillOptions(
        **{"steps": steps, "batch": study.args.batch, "checkpoint_every": steps // 4, **row.train}
    )
    curve_file = folder / "curve.json"
    curve = json.loads(curve_file.read_text()) if curve_file.exists() else {}
    teacher, student = load_denoiser(study.source), pruned(study, row)
    few, start = study.args.curve_samples, time.monotonic()
    kept = kept_by(study, row, teacher) if options.losses.features else None
    for step in training(study, teacher, student, study.process, options, folder, kept):
        if str(step) not in curve:
            probe = averaged(pruned(study, row), folder, step)
            images = study.judge.samples(probe, few)
            curve[str(step)] = study.judge.figures(images, study.dense_samples)
            atomic_write(curve_file, json.dumps(curve))
    images = study.judge.samples(student, study.args.samples)
    curve[str(steps)] = study.judge.figures(images[:few], study.dense_samples)
    save_compressed(student, study.source, folder / "model", {})
    found = {
        "steps": steps,
        "learning_rate": options.learning_rate,
        **sizes(student, images),
        **study.judge.figures(images, study.dense_samples),
        "curve": curve,
        "seconds_of_last_call": time.monotonic() - start,
    }
    atomic_write(folder / "row.json", json.dumps(found))
    return found


def kept_by(study: Study, row: Row, dense: nn.Module):
    """The channels of each block that the row's plan keeps, for the feature loss."""
    family = family_of(study.source.class_name)
    specs = family.specs(study.source.config)
    groups = family.groups(dense, example_inputs(specs, study.source.config))
    plan = Plan.read(study.work / "pruned" / row.cut / "plan.json")
    return kept_channels(dense, groups, plan.keep())


def averaged(model: nn.Module, folder: Path, step: int) -> nn.Module:
    """``model`` with the moving average of a checkpoint."""
    state = load_file(folder / f"step-{step:08d}.safetensors")
    own = {name.removeprefix("ema."): v for name, v in state.items() if name.startswith("ema.")}
    model.load_state_dict(own)
    return model


def sizes(model: nn.Module, images: Tensor) -> dict:
    example = torch.zeros(1, *images.shape[1:], device=next(model.parameters()).device)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "macs": macs(model, example)}


# --- latency --------------------------------------------------------------------------------------


def latencies(study: Study, results: dict) -> None:
    """An engine call of every cut model, all engines in turn, into the rows of ``results``."""
    from diffc.measure.inputs import example_inputs as engine_inputs
    from diffc.measure.latency import LatencyOptions, interleaved
    from diffc.targets import target
    from diffc.targets.engine import read_info

    engines = {"dense": engine(study, "dense", lambda: load_denoiser(study.source))}
    for row in ROWS:
        if row.name in results["rows"] and row.cut not in engines:
            engines[row.cut] = engine(study, row.cut, lambda row=row: pruned(study, row))
    runners = {n: target(study.args.target).load(p, threads=1) for n, p in engines.items()}
    calls = {
        name: runner.bind(engine_inputs(read_info(engines[name]), 1)).run
        for name, runner in runners.items()
    }
    environment = read_environment()
    timings = drain(interleaved(calls, LatencyOptions(rounds=60, seconds=20.0)))
    results["latency"] = {"target": study.args.target, "batch": 1, "threads": 1,
                          "environment": environment.model_dump(mode="json")}  # fmt: skip
    for name, cut in [("dense", "dense"), *((row.name, row.cut) for row in ROWS)]:
        if name in results["rows"]:
            faster = timings.ratio("dense", cut)
            results["rows"][name]["latency_ms"] = timings.percentiles_ms(cut)["p50"]
            results["rows"][name]["speedup"] = {"median": faster.median, "ci95": faster.ci95}


def engine(study: Study, name: str, load) -> Path:
    """The engine folder of one network; weights do not matter to time."""
    from diffc.onnx.export import export_onnx
    from diffc.targets import target
    from diffc.targets.base import BuildOptions

    folder = study.work / "engines" / study.args.target / name
    if not (folder / "engine.json").exists():
        family = family_of(study.source.class_name)
        facts = {"prediction": study.process.prediction, "scheduler": dict(study.source.scheduler)}
        onnx = study.work / "onnx" / name
        export_onnx(load(), family, family.specs(study.source.config), onnx, facts=facts)
        drain(target(study.args.target).build(onnx, BuildOptions(threads=1), folder))
    return folder


# --- results --------------------------------------------------------------------------------------


def claims(rows: dict) -> dict:
    """What the study is about, from the rows that are there."""
    found: dict = {}
    others = [name for name in rows if name != "dense" and not name.startswith(OURS + ",")]
    others = [name for name in others if name != OURS]
    if OURS in rows and others:
        ours, plain = rows[OURS], [rows[name] for name in others]
        found["best_ssim"] = ours["ssim"]["mean"] > max(r["ssim"]["mean"] for r in plain)
        found["best_frechet"] = ours["frechet"]["value"] < min(r["frechet"]["value"] for r in plain)
        found["against"] = others
    if HALF in rows and REFERENCE in rows:
        half, reference = rows[HALF], rows[REFERENCE]
        found["half_the_steps_reach_the_reference"] = {
            "ssim": half["ssim"]["mean"] >= reference["ssim"]["mean"],
            "frechet": half["frechet"]["value"] <= reference["frechet"]["value"],
        }
    if OURS in rows and REFERENCE in rows:
        found["steps_to_the_reference's_final_ssim"] = steps_to(
            rows[OURS]["curve"], rows[REFERENCE]["curve"]
        )
    return found


def steps_to(ours: dict, reference: dict) -> int | None:
    """The first point of our curve at which SSIM is the reference's last or better."""
    goal = reference[max(reference, key=int)]["ssim"]["mean"]
    reached = [int(step) for step, found in ours.items() if found["ssim"]["mean"] >= goal]
    return min(reached, default=None)


def table(results: dict) -> str:
    """Markdown."""
    said, sampling = results["how"], results["how"]["sampling"]
    lines = [
        f"{said['samples']} samples, {sampling['sampler']} of {sampling['steps']} steps, seed "
        f"{sampling['seed']}; {said['steps']} training steps of {said['batch']}; classifier: "
        f"{100 * said['classifier_accuracy']:.1f} % of the test images right.",
        "",
        "| row | steps | parameters | MACs | latency ms | Frechet (se) | SSIM to dense (95 %) |",
        "|" + "---|" * 7,
    ]
    for name, row in results["rows"].items():
        ssim = row.get("ssim")
        shown = f"{ssim['mean']:.3f} [{ssim['ci95'][0]:.3f}, {ssim['ci95'][1]:.3f}]" if ssim else ""
        latency = f"{row['latency_ms']:.2f}" if "latency_ms" in row else "not measured"
        distance = f"{row['frechet']['value']:.3f} ({row['frechet']['se']:.3f})"
        lines.append(
            f"| {name} | {row.get('steps', '')} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['macs'] / 1e6:.0f} M | {latency} | {distance} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Curves of both figures against steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, row in results["rows"].items():
        curve = sorted((int(step), found) for step, found in row.get("curve", {}).items())
        if not curve:
            continue
        steps, style = [step for step, _ in curve], {"marker": "o", "markersize": 3, "label": name}
        style["linewidth"] = 2.5 if name.startswith("ours") else 1.2
        axes[0].plot(steps, [found["ssim"]["mean"] for _, found in curve], **style)
        axes[1].plot(steps, [found["frechet"]["value"] for _, found in curve], **style)
    axes[1].set_yscale("log")
    titles = ("SSIM to the dense model", "Frechet distance, classifier features")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_xlabel("training steps")
        axis.set_title(f"{title}, {results['how']['curve_samples']} samples", fontsize=9)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(study: Study, results: dict) -> None:
    out = study.args.out
    results["claims"] = claims(results["rows"])
    atomic_write(out.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    atomic_write(out.with_suffix(".md"), table(results))
    plot(results, out.with_suffix(".png"))


def study_all(study: Study, results: dict) -> None:
    judge, dense = study.judge, load_denoiser(study.source)
    results["how"]["sampling"] = judge.facts()
    results["how"]["classifier_accuracy"] = accuracy(judge.network, study.test_set, study.device)
    results["how"]["environment"] = read_environment().model_dump(mode="json")
    samples = study.dense_samples
    found = {**sizes(dense, samples), **judge.figures(samples, None)}
    results["rows"]["dense"] = results["rows"].get("dense", {}) | found
    for row in wanted(study):
        print(f"{time.strftime('%H:%M:%S')}  {row.name}", flush=True)
        latency = results["rows"].get(row.name, {})  # from an earlier --only latency
        results["rows"][row.name] = latency | run_row(study, row)
        write(study, results)
    results["complete"] = len(results["rows"]) == len(ROWS) + 1


def wanted(study: Study) -> list[Row]:
    names = [row.name for row in ROWS]
    for name in study.args.rows or ():
        if name not in names:
            raise SystemExit(f"there is no row '{name}'; rows: {', '.join(names)}")
    return [row for row in ROWS if not study.args.rows or row.name in study.args.rows]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=DistillOptions().steps)
    parser.add_argument("--batch", type=int, default=DistillOptions().batch)
    parser.add_argument("--dense-steps", type=int, default=100_000)
    parser.add_argument("--dense-batch", type=int, default=128)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--curve-samples", type=int, default=64)
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--classifier-epochs", type=int, default=3)
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--only", choices=["latency"], help="measure it for the rows that are done")
    parser.add_argument("--target", default="ort-cpu", help="whose engine latency is of")
    parser.add_argument("--work", type=Path, default=Path("build/quality"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quality")
    return parser.parse_args()


def main() -> None:
    """See the top."""
    study = Study(arguments())
    path = study.args.out.with_suffix(".json")
    results: dict = {"how": {**study.settings}, "rows": {}, "complete": False}
    if path.exists():
        old = json.loads(path.read_text())
        if all(old["how"].get(name) == value for name, value in study.settings.items()):
            results = old
    if study.args.only and not results["rows"]:
        raise SystemExit(f"{path} has no rows of these settings: run without --only first")
    try:
        if study.args.only == "latency":
            latencies(study, results)
        else:
            study_all(study, results)
    except OutOfTime:
        print("the time given is over; the same command goes on from here")
    if results["rows"]:
        write(study, results)
        print(table(results))
        print(json.dumps(results["claims"], indent=1))


if __name__ == "__main__":
    main()
