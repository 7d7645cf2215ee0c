"""Does a student learn faster that matches how the dense model's output changes, too?

    python -m bench.second_order [--budget-steps 120] [--images 16] [--weights 0 0.1 1]
                                 [--skip-block-local] [--fashion FOLDER]

The demo at half its MACs is cut and repaired as `diffc compile demo` does it. From that one start,
students are trained for equal seconds of processor time by the recipe's own optimiser and losses,
and one more term:

    weight * mean over rows of w(t) * mean square of (J v - J' v)

J v is the derivative of the dense model's output along a direction v of its input, standard normal
numbers of the seed, the step and the row; J' v is the student's; w(t) is the weight that the error
of the output has. Both come from one call in forward-mode differentiation, and backward goes
through the student's. Weight 0 is the product's loss, in the product's own code and layout; the
others have channels first, since a group norm has no forward mode otherwise.

    block-local   each block alone instead (diffc/distill/block_local), with as many steps as two
                  short trainings say that the time has room for

The time is that of --budget-steps steps of the product's loss, which are timed first. SSIM to the
dense model's images from the same noise; squared error of the predicted noise on Fashion-MNIST's
test images; error of the derivative: the unweighted term, over the mean square of J v, on rows that
no step has. Each row is written to bench/results/second_order.json as soon as it is done; rows of
an earlier call with the same settings stay, and so does their time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

import diffc
from bench.frontier.rows import Model
from bench.held_out import FASHION, HeldOut
from bench.transformer import say, train_for
from diffc.data.clean import CleanSet
from diffc.data.precision import autocast, best_device
from diffc.data.randomness import keyed_noise
from diffc.data.recipe_of_model import recipe_of_model
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.block_local.blocks import local_blocks
from diffc.distill.block_local.run import Place, distil_blocks
from diffc.distill.blocks import kept_channels
from diffc.distill.draw import Batch
from diffc.distill.losses import feature_loss, per_sample, step_loss
from diffc.distill.run import Run, TrainingSettings
from diffc.distill.train import one_step
from diffc.measure.environment import read_environment
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.samples import ModelLoop, sample_images
from diffc.measure.statistics import estimate
from diffc.models.load import load_denoiser
from diffc.prune.plan import Plan
from diffc.prune.surgery import removed_positions
from diffc.recipe import DistillSection
from diffc_export.events import drain
from diffc_runtime.files import write_text

RESULT = Path(__file__).parent / "results" / "second_order.json"
START, BLOCK_LOCAL = "repaired, not trained", "block-local"
DIRECTION = 7
"""The stream of random numbers that directions come from, beside those of distill/draw.py."""
UNSEEN = 1_000_000
"""A step that no training comes to: its rows judge."""
TIMED, SHORT = 5, (2, 6)
"""Steps that are timed; steps of each block in the two trainings that tell what one takes."""


@dataclass(frozen=True)
class Directed(Batch):
    """A batch, and the direction of each of its samples, (B, ...)."""

    direction: Tensor

    def _slice(self, a: int, b: int) -> Directed:
        return Directed(**vars(super()._slice(a, b)), direction=self.direction[a:b])


class SecondOrder(AllSteps):
    """The lesson of all noise levels, and the output's derivative along a random direction."""

    weight = 0.0
    """Of the derivative; set before the first step. 0 leaves everything as the product has it."""

    def open(self, student: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Catch the outputs of both networks' blocks."""
        super().open(student, device, dtype)
        if self.weight:
            channels_first(self.teacher.model, student)

    def draw(self, step: int, rows: range) -> Directed:
        """Samples, noise and timesteps, and directions."""
        batch = super().draw(step, rows)
        keys = ((self.seed, DIRECTION, step, row) for row in rows)
        direction = keyed_noise(keys, batch.clean.shape[1:]).to(self.device)
        return Directed(**vars(batch), direction=direction)

    def loss(self, model: nn.Module, batch: Directed) -> Tensor:
        """The product's loss, and the weighed mean square error of the derivative."""
        if not self.weight:
            return super().loss(model, batch)
        teacher, weights = self.teacher, self.weights.to(batch.t.device)[batch.t]
        with forward_ad.dual_level():
            dense, theirs = self.derivative(teacher.model, batch, is_taught=False)
            output, ours = self.derivative(model, batch)
            caught = [
                {name: forward_ad.unpack_dual(value).primal for name, value in hook.take().items()}
                for hook in self.hooks
            ]
        features = feature_loss(caught[1], caught[0], self.kept) if self.kept else None
        losses, process = self.options.losses, teacher.process
        loss = step_loss(output, dense, batch, process, losses, weights, features)
        return loss + self.weight * (per_sample(ours - theirs) * weights).mean()

    def derivative(
        self, model: nn.Module, batch: Directed, *, is_taught: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Output (B, ...) and its derivative along the batch's directions; inside a dual level."""
        inputs = self.teacher.noised(batch.clean, batch.noise, batch.t, batch.conditions)
        moved = {**inputs, "sample": forward_ad.make_dual(inputs["sample"], batch.direction)}
        precision = autocast(self.device, self.dtype)
        taught = torch.set_grad_enabled(is_taught and torch.is_grad_enabled())
        with taught, precision, contiguous_norms(model), plain_attention():
            output = self.teacher.with_model(model).call(moved)
        primal, tangent = forward_ad.unpack_dual(output)
        assert tangent is not None
        return primal, tangent


def channels_first(*networks: nn.Module) -> None:
    """Give networks the usual layout: a group norm has no forward mode in the other one."""
    for network in networks:
        network.to(memory_format=torch.contiguous_format)


@contextmanager
def contiguous_norms(network: nn.Module) -> Iterator[None]:
    """The same of what group norms are given; what comes out of attention is turned round."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                hook = module.register_forward_pre_hook(
                    lambda _module, given: (given[0].contiguous(),)
                )
                stack.callback(hook.remove)
        yield


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by products and exponentials, without a mask, as the demo has it.

    The fused one has no forward mode, and backward does not go through that of torch's softmax.
    """
    fused = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        powers = (scores - scores.detach().amax(-1, keepdim=True)).exp()
        return powers / powers.sum(-1, keepdim=True) @ value

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused


class Study:
    """The start that all rows share, and what they are measured by."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.dense = self.start.open_dense()
        self.groups = self.dense.groups()  # before a training: a frozen network shows none
        self.held_out = HeldOut(self.dense, args.fashion)

    @cached_property
    def start(self) -> Start:
        small = "-small" if self.args.small else ""
        out = self.work / f"start-{self.args.ratio:g}-{self.args.seed}{small}"
        if not (out / "report.json").exists():
            options = {
                "distill": {"aim": "all-steps", "steps": 0}, "loops": [],
                "quality": {"images": 4}, "seed": self.args.seed,
                "prune": {"importance": self.args.importance}, **self.args.less,
            }  # fmt: skip
            diffc.compile("demo", ratio=self.args.ratio, out=out, stop="distill", options=options,
                          force=True)  # fmt: skip
        return Start(out)

    @cached_property
    def options(self) -> DistillSection:
        """The recipe's own, without samples on the way."""
        recipe = recipe_of_model(self.start.source, None, {})
        return recipe.distill.model_copy(update={"quality_every": 0, **self.args.training})

    @cached_property
    def dense_images(self) -> Tensor:
        say(f"{self.args.images} images of the dense model")
        return self.images(self.dense.model)

    def images(self, network: nn.Module) -> Tensor:
        """(n, C, H, W) in [-1, 1], of every network from the same noise."""
        loop = self.start.model.loop(self.args.loop)
        denoiser = self.dense.with_model(network.eval())
        return drain(sample_images(ModelLoop(denoiser, loop), self.args.images)).clamp(-1, 1)

    def lesson(self, student: nn.Module, weight: float) -> SecondOrder:
        """What the student learns from."""
        dense, keep = self.dense, self.start.plan.keep()
        kept = kept_channels(dense.model, dense.family, self.groups, keep)
        pair = ModelPair(dense, student, kept)
        lesson = SecondOrder(pair, self.start.clean, self.options, self.args.seed)
        lesson.weight = weight
        return lesson

    def figures(self, network: nn.Module) -> dict[str, Any]:
        """What a row says of its network."""
        pairs = SSIM.of_pairs(self.dense_images, self.images(network))
        return {
            "ssim": estimate(pairs, SSIM.possible).as_dict(),
            "held_out_error": self.held_out.error(network),
            "derivative_error": self.derivative_error(network),
        }

    @torch.no_grad()
    def derivative_error(self, network: nn.Module) -> float:
        """Mean square of (J v - J' v) over that of J v, on rows that no step has."""
        lesson = self.lesson(network, 1.0)
        channels_first(self.dense.model, network)
        batch = lesson.draw(UNSEEN, range(min(32, self.options.batch)))
        with forward_ad.dual_level():
            _, theirs = lesson.derivative(self.dense.model, batch)
            _, ours = lesson.derivative(network, batch)
        return float(per_sample(ours - theirs).mean() / per_sample(theirs).mean())


class Start:
    """A run of the product up to the repair."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.model = Model(START, out, ())

    @cached_property
    def source(self):
        return diffc.models.source.find_source("demo")

    @cached_property
    def plan(self) -> Plan:
        return Plan.read(self.out / "plan.json")

    @cached_property
    def clean(self) -> CleanSet:
        return CleanSet.load(self.out / ".diffc" / "clean.safetensors")

    def open_dense(self):
        """The dense denoiser, on this machine's best device."""
        return Model("dense", Path(self.source.folder), ()).open()

    def student(self) -> nn.Module:
        """The cut and repaired network, before any training."""
        return load_denoiser(self.model.source)


def step_seconds(study: Study) -> float:
    """Processor seconds of a step of the product's loss, the median of some after a first one."""
    student = study.start.student().requires_grad_(True)
    settings = TrainingSettings(study.options, study.work / "timed")
    run, took = Run.start(study.lesson(student, 0.0), student, settings), list[float]()
    with closing(run):
        for _ in range(1 + TIMED):
            begin = time.process_time()
            drain(one_step(run))
            took.append(time.process_time() - begin)
    return statistics.median(took[1:])


def trained(study: Study, weight: float, seconds: float) -> tuple[nn.Module, dict[str, Any]]:
    """A student of the whole network, and what its training took."""
    student = study.start.student().requires_grad_(True)
    folder = study.work / f"weight-{weight:g}-{seconds:.0f}-{study.args.seed}"
    facts = train_for(seconds, study.lesson(student, weight), student, folder)
    return student, {"steps": facts["steps"], "processor_seconds": facts["seconds"]}


def block_local(study: Study, seconds: float) -> tuple[nn.Module, dict[str, Any]]:
    """A student whose blocks learnt alone, and what that took."""
    took = [_blocks(study, study.start.student(), steps)[1] for steps in SHORT]
    each = max((took[1] - took[0]) / (SHORT[1] - SHORT[0]), 1e-9)
    steps = max(1, round(SHORT[0] + (seconds - took[0]) / each))
    say(f"    {steps} steps of each block")
    student = study.start.student()
    outcome, gone = _blocks(study, student, steps)
    facts = {"steps": steps, "processor_seconds": gone, "is_used": outcome.is_used,
             "blocks": len(outcome.blocks)}  # fmt: skip
    return student, facts


def _blocks(study: Study, student: nn.Module, steps: int):
    """Train each block for so many steps, in place; the outcome, and the processor seconds."""
    dense = study.dense
    removed = removed_positions(study.groups, study.start.plan.keep())
    blocks = local_blocks(dense.model, student, dense.family, removed)
    given = {"steps": steps, **study.args.block_local}
    options = study.options.block_local.model_copy(update=given)
    for attempt in count():  # a folder of its own: what is in one is not learnt again
        folder = study.work / "blocks" / f"{os.getpid()}-{attempt}"
        if not folder.exists():
            break
    folder.mkdir(parents=True)
    place = Place(best_device(), torch.float32, folder, folder)
    begin, seed = time.process_time(), study.args.seed
    clean = study.start.clean
    outcome = drain(distil_blocks(dense, student, blocks, clean, options, place, seed))
    return outcome, time.process_time() - begin


def label(weight: float) -> str:
    """A row's name."""
    return "the product's loss" if not weight else f"derivative, weight {weight:g}"


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What rows must share to stand in one file."""
    names = ("ratio", "budget_steps", "images", "loop", "seed", "threads")
    return {name: getattr(args, name) for name in names}


def run_all(study: Study) -> dict[str, Any]:
    """Every row that was asked for, the start's first."""
    args, results = study.args, dict[str, Any]()
    if args.out.exists():
        results = json.loads(args.out.read_text())
    if results.get("settings") != settings_of(args):
        each = step_seconds(study)
        results = {"settings": settings_of(args), "step_seconds": each,
                   "seconds": each * args.budget_steps, "rows": []}  # fmt: skip
    results |= {
        "date": date.today().isoformat(), "load": os.getloadavg()[0],
        "environment": read_environment().model_dump(mode="json"),
        "training": study.options.model_dump(mode="json"),
        "dense_held_out_error": study.held_out.error(study.dense.model),
    }  # fmt: skip
    seconds = results["seconds"]
    makers = {START: lambda: (study.start.student(), {"steps": 0, "processor_seconds": 0.0})}
    makers |= {label(w): lambda w=w: trained(study, w, seconds) for w in args.weights}
    if not args.skip_block_local:
        makers[BLOCK_LOCAL] = lambda: block_local(study, seconds)
    for name, make in makers.items():
        say(f"{name}, {seconds:.0f} s")
        network, facts = make()
        row = {"row": name, **facts, **study.figures(network.requires_grad_(False))}
        kept = {one["row"]: one for one in results["rows"]} | {name: row}
        results["rows"] = list(kept.values())
        write_text(args.out, json.dumps(results, indent=1) + "\n")
    return results


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| row | steps | processor s | SSIM | held-out error | error of the derivative |",
             "|---|" + "--:|" * 5]  # fmt: skip
    for one in results["rows"]:
        low, high = one["ssim"]["ci95"]
        lines.append(
            f"| {one['row']} | {one['steps']} | {one['processor_seconds']:.0f} | "
            f"{one['ssim']['mean']:.3f} [{low:.3f}, {high:.3f}] | {one['held_out_error']:.4f} | "
            f"{one['derivative_error']:.4f} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget-steps", type=int, default=120,
                        help="of the product's loss, whose time every row has")  # fmt: skip
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--weights", type=float, nargs="*", default=[0.0, 0.1, 1.0])
    parser.add_argument("--skip-block-local", action="store_true")
    parser.add_argument("--loop", default="ddim:50")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--small", action="store_true", help="little of everything: a test")
    parser.add_argument("--work", type=Path, default=Path("build/second_order"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.importance, args.training, args.block_local, args.less = {}, {}, {}, {}
    if args.small:
        args.importance = {"passes": 2, "grid": 4, "curve_images": 2, "branch_rows": 2}
        args.less = {"data": {"images": 8, "steps": 2}, "repair": {"rows": 8}}
        args.training = {"batch": 2}
        args.block_local = {"rows": 8, "batch": 2}
    return args


def main() -> None:
    """See the top."""
    args = arguments()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["DIFFC_CACHE"] = str((args.work / "cache").resolve())
    print(table(run_all(Study(args))))


if __name__ == "__main__":
    main()
