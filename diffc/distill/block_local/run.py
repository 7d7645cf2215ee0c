"""All blocks, in the order in which the dense network runs them.

The calls of the dense network go through it in step: all wait behind a block, the cut block of that
place learns from what this one was given and gave, and all go on. What they go on with is in files.

The dense network and the cut one stay where they are, on the CPU and mapped from their files; a
block is on the device while it runs or is trained. Memory so holds the dense block, the cut one
with gradient and optimiser, and the activations of one call. What blocks learnt is written one by
one, and a run that was killed goes on behind the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from diffc.calibration.by_block import on_device
from diffc.calibration.errors import errors_of_outputs
from diffc.calibration.in_files import in_files
from diffc.calibration.in_step import AtLayer, WaitingCall, calls_in_step
from diffc.calibration.noised import NoisedBatch, noised_batches
from diffc.data.clean import CleanSet
from diffc.distill.block_local.blocks import LocalBlock
from diffc.distill.block_local.train import Example, TrainedBlock, train_block
from diffc.errors import UnavailableError
from diffc.models.denoiser import Denoiser
from diffc.models.mapped import map_weights
from diffc.recipe.sections.distill import BlockLocalSection
from diffc.recipe.sections.training import OWN_WEIGHTS, LowRankSection
from diffc.stage_outcomes import BlockLocalOutcome, LocalBlockFigures, NetworkErrors
from diffc_export.events import Progress, Work
from diffc_runtime.files import new_file
from diffc_runtime.machine.out_of_memory import is_out_of_memory

_FIGURES = "figures"


@dataclass(frozen=True)
class Place:
    """Where blocks run.

    Attributes:
        device: Of one block at a time.
        dtype: Of forward passes in the training.
        folder: What was learnt, a file for each block; outlives a kill.
        temporary: Activations.
    """

    device: torch.device
    dtype: torch.dtype
    folder: Path
    temporary: Path


def distil_blocks(
    dense: Denoiser,
    cut: nn.Module,
    blocks: Sequence[LocalBlock],
    clean: CleanSet,
    options: BlockLocalSection,
    place: Place,
    seed: int,
    low_rank: LowRankSection = OWN_WEIGHTS,
) -> Work[BlockLocalOutcome]:
    """Train every block of ``blocks``; the weights are in files of ``place.folder``.

    ``cut`` has the new weights in the end, or the old ones where the network is no nearer to the
    dense one on the rows held out: then no file is left.

    Args:
        dense: The model before the cut, on the CPU.
        cut: The model after it, on the CPU.
        blocks: Of ``local_blocks``.
        clean: Clean samples.
        options: How to train.
        place: Where.
        seed: Of everything random.
        low_rank: The additions that are trained in the place of the weights, if its rank is one.

    Raises:
        UnavailableError: Memory has no room for a batch.
    """
    batches = noised_batches(dense, clean, options.rows, seed, options.batch)
    judges = [batch for batch in batches if batch.is_held_out]
    blocks = _in_order(dense, blocks, judges[0])
    learning = partial(_train, options=options, low_rank=low_rank, place=place)
    wanted, figures = yield from _train_all(dense, cut, blocks, batches, learning, place, seed)
    student = dense.with_model(cut)
    before, after = _outputs(student, blocks, judges, place), None
    used = [one for one, figure in zip(blocks, figures, strict=True) if figure.is_used]
    old = {name: value.data for name, value in cut.named_parameters()}
    if used:
        for one in used:
            map_weights(cut.get_submodule(one.name), weights_file(place.folder, one.name))
        after = _outputs(student, blocks, judges, place)
    of_dense, of_old, of_new = (_errors(one, wanted, judges) for one in (wanted, before, after))
    assert of_dense is not None and of_old is not None
    is_used = of_new is not None and of_new.to_dense < of_old.to_dense  # NaN is no improvement
    if not is_used:
        for name, value in old.items():
            cut.get_parameter(name).data = value
    for one in blocks:
        if not is_used or one not in used:
            weights_file(place.folder, one.name).unlink()
    return BlockLocalOutcome(
        is_used=is_used,
        blocks=figures,
        dense=of_dense,
        before=of_old,
        after=of_new,
        samples=sum(map(len, batches)),
        steps=options.steps,
        precision=str(place.dtype).removeprefix("torch."),
    )


def weights_file(folder: Path, block: str) -> Path:
    """Where the weights of a block are that has learnt."""
    return folder / f"{block}.safetensors"


def _errors(
    given: Sequence[Tensor] | None, wanted: Sequence[Tensor], judges: Sequence[NoisedBatch]
) -> NetworkErrors | None:
    return errors_of_outputs(zip(given, wanted, strict=True), judges) if given else None


class _Stream:
    """Calls of a network that go through it block by block, with one block on the device."""

    def __init__(
        self, model: nn.Module, calls: Sequence[WaitingCall], device: torch.device
    ) -> None:
        self._model, self._calls, self._device = model, calls, device

    def behind(self, name: str) -> list[AtLayer]:
        """Run all calls to the end of the block ``name``, the next one."""
        block = self._model.get_submodule(name)
        with on_device(self._device, [*block.parameters(), *block.buffers()]):
            places = [call.to_next_layer() for call in self._calls]
        behind = [place for place in places if place is not None and place.name == name]
        assert len(behind) == len(places)
        return behind

    def outputs(self) -> list[Tensor]:
        """Run all calls to their ends."""
        assert all(call.to_next_layer() is None for call in self._calls)
        return [call.result for call in self._calls]


@contextmanager
def _stream(
    denoiser: Denoiser, names: Sequence[str], batches: Sequence[NoisedBatch], place: Place
) -> Iterator[_Stream]:
    works = [partial(denoiser.call, batch.inputs) for batch in batches]
    map_inputs = partial(tree_map_only, Tensor, lambda value: value.to(place.device))
    map_output = in_files(place.temporary)
    with calls_in_step(
        denoiser.model, names, works, map_inputs=map_inputs, map_output=map_output
    ) as calls:
        yield _Stream(denoiser.model, calls, place.device)


def _in_order(
    dense: Denoiser, blocks: Sequence[LocalBlock], batch: NoisedBatch
) -> list[LocalBlock]:
    """``blocks`` in the order in which a call runs them, without those that it runs not once."""
    one = {name: value[:1] for name, value in batch.inputs.items()}
    runs: list[str] = []
    with ExitStack() as stack:
        for name in _stops(blocks):
            module = dense.model.get_submodule(name)
            hook = module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
            stack.callback(hook.remove)
        with torch.no_grad():
            dense.call(one)
    once = {name: place for place, name in enumerate(runs) if runs.count(name) == 1}
    able = [block for block in blocks if block.name in once and block.until in once]
    return sorted(able, key=lambda block: once[block.name])


def _stops(blocks: Sequence[LocalBlock]) -> list[str]:
    """The blocks behind which calls wait, in their order."""
    return list(dict.fromkeys(name for one in blocks for name in (one.name, one.until)))


def _train_all(
    dense: Denoiser,
    cut: nn.Module,
    blocks: Sequence[LocalBlock],
    batches: Sequence[NoisedBatch],
    learning: Callable[..., TrainedBlock],
    place: Place,
    seed: int,
) -> Work[tuple[list[Tensor], list[LocalBlockFigures]]]:
    """Train each block; returns what the dense network gives for the rows held out, and figures."""
    figures = []
    with _stream(dense, _stops(blocks), batches, place) as stream:
        for number, block in enumerate(blocks):
            yield Progress(number, len(blocks), f"block-local distillation: {block.name}")
            given = last = stream.behind(block.name)
            if block.until != block.name:
                last = stream.behind(block.until)
            file = weights_file(place.folder, block.name)
            learnt = _figures(file)  # of a run that was killed
            if learnt is None:
                theirs = dense.model.get_submodule(block.name)
                examples = [
                    Example(
                        block.arguments(theirs, one.inputs, one.named),
                        block.wanted(end.output),
                        batch.is_held_out,
                    )
                    for one, end, batch in zip(given, last, batches, strict=True)
                ]
                ours = cut.get_submodule(block.name)
                _save(learning(block.name, ours, examples, seed=seed + number), file)
                learnt = _figures(file)
                assert learnt is not None
            figures.append(learnt)
        outputs = stream.outputs()
    return [
        output for output, batch in zip(outputs, batches, strict=True) if batch.is_held_out
    ], figures


def _train(
    name: str,
    block: nn.Module,
    examples: Sequence[Example],
    *,
    options: BlockLocalSection,
    low_rank: LowRankSection,
    place: Place,
    seed: int,
) -> TrainedBlock:
    device, dtype = place.device, place.dtype
    try:
        return train_block(name, block, examples, options, device, dtype, seed, low_rank)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UnavailableError(
            f"there is not enough memory to train the block {name}",
            hint="try a smaller distill.block_local.batch, or precision bf16 under distill",
        ) from error


def _outputs(
    denoiser: Denoiser, blocks: Sequence[LocalBlock], batches: Sequence[NoisedBatch], place: Place
) -> list[Tensor]:
    names = [block.name for block in blocks]
    with _stream(denoiser, names, batches, place) as stream:
        for name in names:
            stream.behind(name)
        return stream.outputs()


def _save(trained: TrainedBlock, file: Path) -> None:
    """Write what a block learnt: the whole file, or none."""
    metadata = {_FIGURES: trained.figures.model_dump_json()}
    with new_file(file, flush=True) as unfinished:
        save_file(trained.weights, unfinished, metadata=metadata)


def _figures(file: Path) -> LocalBlockFigures | None:
    """What became of the block; None where no whole file has it."""
    try:
        with safe_open(file, "pt") as opened:
            return LocalBlockFigures.model_validate_json((opened.metadata() or {})[_FIGURES])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
