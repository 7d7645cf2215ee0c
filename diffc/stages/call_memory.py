"""What each stage needs of memory beside the parameters, counted without running it.

The stage's own loss and its gradients are computed on tensors without memory
(diffc/models/without_memory.py), of the networks, the rows and the precision of the run. Bytes are
those of activations, gradients and copies, beside weights, AdamW's moments and the moving average.
Before there is a plan, the compressed network is taken to have uniform widths; where nothing tells
these, it is the dense one, which takes more. bench/training_memory.py compares the count with what
is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.errors import DiffcError
from diffc.models.source import Source
from diffc.recipe import LoopTrainingSection, Recipe
from diffc.recipe.sections.training import (
    GRADIENT_BYTES,
    LEARNT_BYTES,
    TRAINED_BYTES,
    WEIGHT_BYTES,
    LowRankSection,
    TrainingSection,
)
from diffc.stage_inputs import RunShape
from diffc.stages.counted_stages import (
    BENCH,
    BENCH_WITH_SCORES,
    TRIALS,
    CallBytes,
    count_key,
    counted_stages,
    is_by_block,
    micro_batch,
    unlike_pieces,
)
from diffc_export.cache import cached_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from diffc.distill.losses import Kept
    from diffc.models.denoiser import Denoiser
    from diffc.models.groups import Group
    from diffc.models.without_memory import WithoutMemory
    from diffc.prune.plan import Plan


def call_bytes(
    source: Source,
    recipe: Recipe,
    plan: Path | None = None,
    *,
    count: bool = True,
    only: Collection[str] | None = None,
) -> CallBytes:
    """What the calls of every stage take, from the cache where it was counted before.

    Args:
        source: The model; its weights are not read.
        recipe: Every option.
        plan: OUT/plan.json, where there is one.
        count: False counts nothing anew, and imports no PyTorch.
        only: The stages to count; None: every one.
    """
    counts, networks = {}, _Networks(source, recipe, plan)
    for stage in (one for one in counted_stages(recipe) if only is None or one in only):
        count_stage = partial(_counted, networks, stage) if count else _nothing
        key = count_key(source, recipe, stage, plan)
        with suppress(LookupError):
            answer = cached_json("call-memory", key, count_stage, dict)
            if answer.get("bytes") is not None:
                counts[stage] = int(answer["bytes"])
    return counts


def _nothing() -> dict[str, int | None]:
    raise LookupError


def _counted(networks: _Networks, stage: str) -> dict[str, int | None]:
    from diffc.models.dry_run import FAILURES

    # a class that shapes alone cannot run has no estimate; whether it runs is another check
    with suppress(*FAILURES, DiffcError):
        count: dict[str, Callable[[], int]] = {
            "data": networks.data,
            "importance": networks.importance,
            "prune": networks.surgery,
            "repair": networks.repair,
            "trajectories": networks.trajectories,
            "samples": networks.samples,
            "export-dense": networks.dense_reference,
            "export-compressed": networks.small_reference,
            BENCH: networks.engines,
            BENCH_WITH_SCORES: partial(networks.engines, scores=True),
            TRIALS: networks.trial,
            "distill-blocks": networks.blocks,
            "distill": networks.all_steps,
            "distill-loop": networks.loop,
        }
        return {"bytes": count[stage]()}
    return {"bytes": None}


@dataclass(frozen=True)
class _Networks:
    """Both networks on the meta device.

    What takes seconds of a large model is done once for all stages, and by the first that asks.

    Attributes:
        source: The model.
        recipe: Every option.
        file: OUT/plan.json, where there is one.
    """

    source: Source
    recipe: Recipe
    file: Path | None = None

    @cached_property
    def plan(self) -> Plan | None:
        """What is cut; None: nothing that is known."""
        from diffc.prune.plan import Plan

        return _uniform(self.source, self.recipe) if self.file is None else Plan.read(self.file)

    @cached_property
    def groups(self) -> list[Group]:
        return self.dense().groups()

    @cached_property
    def _cut(self) -> nn.Module:
        from diffc.prune.surgery import cut

        model = self.dense().model
        if self.plan is not None:
            cut(model, self.dense().units(), self.plan.keep())
        return model

    def dense(self) -> Denoiser:
        """A dense network of the caller's own."""
        return RunShape.of(self.recipe).open_on_meta(self.source)

    def student(self) -> Denoiser:
        """A compressed network of the caller's own."""
        return self.dense().with_model(copy.deepcopy(self._cut))

    def kept(self) -> Kept:
        from diffc.distill.blocks import kept_channels

        dense = self.dense()
        keep = self.plan.keep() if self.plan is not None else {}
        return kept_channels(dense.model, dense.family, self.groups, keep)

    def data(self) -> int:
        """The samples that are drawn or read, and the calls that they take."""
        from diffc.data.precision import best_device, fast_dtype
        from diffc.stages.forward_memory import data_bytes

        dtype = fast_dtype(best_device())
        return data_bytes(_place(), self.dense(), self.source, self.recipe, dtype)

    def dense_reference(self) -> int:
        """Calls of the dense model at the inputs that parity is measured on; always on the CPU."""
        from diffc.stages.forward_memory import reference_bytes

        return reference_bytes(_on_cpu(), self.dense())

    def small_reference(self) -> int:
        """The same of the compressed one."""
        from diffc.stages.forward_memory import reference_bytes

        return reference_bytes(_on_cpu(), self.student())

    def engines(self, *, scores: bool = False) -> int:
        """A call of both sides in the largest batch, since engines keep the memory of a call.

        Args:
            scores: Whether the runtime has attention's scores in memory.
        """
        from diffc.stages.forward_memory import batch_bytes

        build = self.recipe.build
        rows = max(max(build.of(name).batch) for name in build.target)
        sides = (self.dense(), self.student())
        return sum(batch_bytes(_on_cpu(), one, rows, scores=scores) for one in sides)

    def trial(self) -> int:
        """A row of the dense model in ONNX Runtime; the compressed one takes no more."""
        from diffc.stages.forward_memory import batch_bytes

        return batch_bytes(_on_cpu(), self.dense(), 1, scores=True)

    def importance(self) -> int:
        """A pass of gradients of the dense model in float32."""
        import torch

        if is_by_block(self.recipe.prune.importance):
            return self._importance_by_block()
        place, dense = _place(), self.dense()
        place.network(dense.model, trained=True)
        options = self.recipe.prune.importance
        inputs = place.inputs(dense.specs, micro_batch(options))
        # some scores add the gradients of several passes
        times = unlike_pieces(options) if options.method == "diff-pruning" else 2
        return place.peak(lambda: torch.mean(dense.call(inputs).square()), times)

    def _importance_by_block(self) -> int:
        """The same of one block at a time; on a GPU with the weights that are there then."""
        from diffc.prune.importance.by_block import count_by_block

        place, dense = _place(), self.dense()
        place.network(dense.model, trained=False)
        options = self.recipe.prune.importance
        inputs = place.inputs(dense.specs, micro_batch(options))
        return count_by_block(
            place, dense, self.groups, inputs, elements=options.method == "reference"
        )

    def surgery(self) -> int:
        """The tensors that are cut; the others stay in their files."""
        cut = self._cut_tensors()
        return sum(WEIGHT_BYTES * tensor.numel() for tensor in cut.values())

    def repair(self) -> int:
        """What waits in a repair, and the sums of its widest layer; 0 where nothing was cut."""
        from diffc.prune.repair.layers import readers
        from diffc.stages.forward_memory import repair_bytes

        keep = self.plan.keep() if self.plan is not None else {}
        dense, student = self.dense(), self.student()
        of_cut = readers(dense.model, student.model, self.groups, keep)
        return repair_bytes(_place(), dense, student, of_cut, self.recipe)

    def trajectories(self) -> int:
        """Calls of the dense model without gradients, and the states of a shard."""
        from diffc.data.precision import best_device, fast_dtype
        from diffc.stages.forward_memory import trajectories_bytes

        dtype = fast_dtype(best_device())
        return trajectories_bytes(_place(), self.dense(), self.source, self.recipe, dtype)

    def samples(self) -> int:
        """The largest call that pictures of both models take."""
        from diffc.stages.forward_memory import samples_bytes

        return samples_bytes(_place(), self.dense(), self.source, self.recipe)

    def blocks(self) -> int:
        """The largest block that learns alone, without the activations of its call.

        Its weights, gradients and AdamW's moments, and copies of the weights in the precision of
        the forward pass. Low-rank additions have the gradients and moments in their place.
        """
        from diffc.data.precision import best_device
        from diffc.distill.low_rank import add_low_rank, count_additions
        from diffc.distill.setup import dtype_of
        from diffc.models.families.streams import stream_blocks

        options = self.recipe.distill
        dtype, low_rank = dtype_of(options.precision, best_device()), options.low_rank
        copies = dtype.itemsize if dtype.itemsize < WEIGHT_BYTES else 0
        each = copies + (WEIGHT_BYTES if low_rank.rank else LEARNT_BYTES)
        student, cut = self.student(), self._cut_tensors()
        largest = 0
        for one in stream_blocks(self.dense().model, student.family.block_lists):
            if any(name.startswith(f"{one.name}.") for name in cut):
                block = student.model.get_submodule(one.name)
                own = each * sum(value.numel() for value in block.parameters())
                if low_rank.rank:
                    add_low_rank(block, low_rank)
                largest = max(largest, own + (LEARNT_BYTES + copies) * count_additions(block))
        return largest

    def _cut_tensors(self) -> dict[str, Tensor]:
        whole = {name: value.shape for name, value in self.dense().model.named_parameters()}
        tensors = self.student().model.named_parameters()
        return {name: value for name, value in tensors if value.shape != whole[name]}

    def all_steps(self) -> int:
        """Micro-batches of the training for all noise levels."""
        import torch

        from diffc.data.clean import CleanSet
        from diffc.distill.all_steps import AllSteps, ModelPair
        from diffc.distill.draw import Batch

        place, dense, student, options = _place(), self.dense(), self.student(), self.recipe.distill
        kept = self.kept() if options.losses.features else None
        place.network(dense.model, trained=False)
        beside = _prepare_student(place, student, options, options.low_rank)
        one = CleanSet(torch.zeros(1, *dense.sample_shape), {}, "one sample")
        lesson = AllSteps(ModelPair(dense, student.model, kept), one, options)
        lesson.open(student.model, place.device, _dtype(options, place.device))
        values = _values(place, dense, micro_batch(options), "clean", "noise")
        batch = Batch(values["clean"], values["noise"], values["t"], _conditions(dense, values))
        return beside + _peak(place, partial(lesson.loss, student.model, batch), options)

    def loop(self) -> int:
        """Micro-batches of the training for the loops."""
        import torch

        from diffc.data.clean import CleanSet
        from diffc.distill.loop.lesson import LoopBatch, LoopLesson
        from diffc.distill.loop.trajectories import TrajectorySet

        place, dense, student = _place(), self.dense(), self.student()
        options: LoopTrainingSection = self.recipe.distill.loop
        if options.features:
            place.network(dense.model, trained=False)
        beside = _prepare_student(place, student, options, self.recipe.distill.low_rank)
        none = CleanSet(torch.zeros(1, *dense.sample_shape), {}, "no trajectory")
        trajectories = TrajectorySet(Path(), 0, 0, (), none)
        seen_by = dense if options.features else None
        lesson = LoopLesson(student, trajectories, (), options, dense=seen_by)
        lesson.open(student.model, place.device, _dtype(options, place.device))
        rows = micro_batch(options)
        values = _values(place, dense, rows, "sample", "target")
        time, numbers = values["t"].float(), torch.zeros(rows, dtype=torch.int64)
        to_clean = place.values({"to_clean": ((2,), torch.float32)}, rows)["to_clean"]
        batch = LoopBatch(
            values["sample"], time, values["target"], to_clean, _conditions(dense, values), numbers
        )
        return beside + _peak(place, partial(lesson.loss, student.model, batch), options)


def _uniform(source: Source, recipe: Recipe) -> Plan | None:
    """The plan of uniform widths; None where the options cannot be met by them."""
    from diffc.prune.planning import make_plan
    from diffc.stages.plan import alignment

    own = recipe.prune
    ratio_of = "macs" if own.ratio_of == "latency" else own.ratio_of
    uniform = {"allocate": "uniform", "cut": "width", "ratio_of": ratio_of}
    with suppress(DiffcError):
        of_widths = recipe.model_copy(update={"prune": own.model_copy(update=uniform)})
        return make_plan(source, of_widths, None, {}, alignment(recipe))
    return None


def _place() -> WithoutMemory:
    from diffc.data.precision import best_device
    from diffc.models.without_memory import WithoutMemory

    return WithoutMemory(best_device())


def _on_cpu() -> WithoutMemory:
    import torch

    from diffc.models.without_memory import WithoutMemory

    return WithoutMemory(torch.device("cpu"))


def _dtype(options: TrainingSection, device: torch.device) -> torch.dtype:
    from diffc.distill.setup import choose_dtype

    return choose_dtype(options, device)


def _prepare_student(
    place: WithoutMemory, student: Denoiser, options: TrainingSection, low_rank: LowRankSection
) -> int:
    """Bring the student to a place; returns the bytes of additions but for their gradients.

    Those are their weights, AdamW's moments and the moving average.
    """
    from diffc.distill.low_rank import add_low_rank, count_additions, learn

    if low_rank.rank:
        add_low_rank(student.model, low_rank)
    place.network(student.model, trained=True)
    learn(student.model)
    if options.gradient_checkpointing:
        from diffc.distill.setup import checkpoint_activations

        checkpoint_activations(student.model)
    return (TRAINED_BYTES - GRADIENT_BYTES) * count_additions(student.model)


def _values(place: WithoutMemory, dense: Denoiser, rows: int, *samples: str) -> dict[str, Tensor]:
    """Conditions by their names, ``samples`` of a sample's shape, and timesteps as ``t``."""
    import torch

    values = place.inputs([spec for spec in dense.specs if spec.kind == "condition"], rows)
    shapes = dict.fromkeys(samples, (dense.sample_shape, torch.float32))
    return {**values, **place.values({**shapes, "t": ((), torch.int64)}, rows)}


def _conditions(dense: Denoiser, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {spec.name: values[spec.name] for spec in dense.specs if spec.kind == "condition"}


def _peak(place: WithoutMemory, loss: partial[Tensor], options: TrainingSection) -> int:
    return place.peak(loss, times=unlike_pieces(options))
