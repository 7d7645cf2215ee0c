"""Gradients for scores with one block of the network in memory at a time.

A score adds w dL/dw up over each channel. A block's gradients go into these sums as soon as they
are there, and are dropped (diffc/calibration/by_block.py). Of a score that adds up the gradients of
many passes element by element, before it takes absolute values, they lie in files.

measured_by_block  the calls of a denoiser work its blocks one at a time
count_by_block     what a pass takes of memory
GradientSums       what became of the gradients
SummedPasses       the passes of a score that adds their gradients up
PassRecord         the outcome of passes in a file: a run that was killed goes on behind them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffc.calibration.by_block import Alone, Recall, blocks_alone, keep_in_files
from diffc.data.processes import process_share
from diffc.models.denoiser import Denoiser
from diffc.models.families.streams import stream_blocks
from diffc.models.groups import Group
from diffc.models.sizes import get_tensor
from diffc.models.without_memory import WithoutMemory
from diffc.prune.importance.base import Subject
from diffc.prune.importance.sums import channel_sums, finite_sums
from diffc_export.specs import Inputs
from diffc_runtime.files import new_file

_DONE, _OF = "done", "of"
_LOSSES = "losses"
_NO_PASS = -1


class PassRecord:
    """What passes gave so far, in a file."""

    def __init__(self, folder: Path | None, name: str, of: str = "") -> None:
        """Args: folder: Of the file; None: nothing is written. of: What it must be a record of."""
        self._file = None if folder is None else folder / f"{name}.safetensors"
        self._of = of

    def latest(self) -> tuple[int, dict[str, NDArray[np.float64]]]:
        """How many passes are done, and the values after them; 0 and none at the beginning."""
        if self._file is None or not self._file.is_file():
            return 0, {}
        with safe_open(self._file, "np") as opened:
            facts = opened.metadata()
            if facts[_OF] != self._of:
                return 0, {}
            names = list(opened.keys())
            return int(facts[_DONE]), {name: opened.get_tensor(name) for name in names}

    def write(self, done: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Keep the values after ``done`` passes: the whole file, or the former one stays."""
        if self._file is None:
            return
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        with new_file(self._file) as unfinished:
            save_file(tensors, unfinished, metadata={_DONE: str(done), _OF: self._of})


class SummedPasses:
    """The passes of a score that adds the gradients of all of them up.

    Where blocks are worked one at a time, a run that was killed goes on behind the last pass;
    gradients in the network itself are lost with it, and all passes begin again.
    """

    def __init__(self, subject: Subject, *, elements: bool = False) -> None:
        """Args: subject: What is measured. elements: Whether absolute values are taken of sums."""
        self._sums = subject.by_block
        self._record = PassRecord(None, "")
        self.losses: list[float] = []
        if self._sums is None:
            return
        if elements:
            self._sums.add_up_elements()
        self._record = PassRecord(subject.records, f"sums-{process_share()[0]}")
        _, values = self._record.latest()
        self.losses = values.pop(_LOSSES, np.zeros(0)).tolist()
        self._sums.go_on(len(self.losses), values)

    def add(self, loss: float) -> None:
        """One more pass is done."""
        self.losses.append(loss)
        if self._sums is not None:
            values = {**self._sums.values, _LOSSES: np.array(self.losses)}
            self._record.write(len(self.losses), values)


class GradientSums:
    """The sums of w dL/dw over channels, of a network whose gradients come block by block.

    Attributes:
        device: Where blocks are worked.
        names: The blocks.
        parameter_names: The tensors that the sums are of.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        groups: Sequence[Group],
        device: torch.device,
        folder: Path,
    ) -> None:
        self.device, self.names, self._folder = device, names, folder
        self._model = model
        self._dims: dict[str, set[int]] = {}
        for piece in (piece for group in groups for piece in group.slices):
            self._dims.setdefault(piece.tensor, set()).add(piece.dim)
        self._sums: dict[tuple[str, int], NDArray[np.float64]] = {}
        self._elements: _GradientFiles | None = None

    @property
    def parameter_names(self) -> list[str]:
        """The names of the parameters whose gradients count."""
        return [name for name, _ in self._model.named_parameters() if name in self._dims]

    @property
    def outside(self) -> list[str]:
        """Those of them that are in no block."""
        prefixes = tuple(f"{name}." for name in self.names)
        return [name for name in self.parameter_names if not name.startswith(prefixes)]

    def add_up_elements(self) -> None:
        """From now on add gradients up element by element, in files.

        Processes of a launch share the folder, and one may be a pass ahead of another.
        """
        rank = process_share()[0]
        self._elements = _GradientFiles(self._folder / f"rank{rank}" if rank else self._folder)

    def begin(self, *, accumulate: bool) -> None:
        """Begin a pass; without ``accumulate`` what earlier ones gave is forgotten."""
        for name in self.outside:
            self._model.get_parameter(name).grad = None  # of a pass that had no room
        if self._elements is not None:
            self._elements.begin(accumulate=accumulate)
        elif not accumulate:
            self._sums = {}

    def go_on(self, done: int, sums: Mapping[str, NDArray[np.float64]]) -> None:
        """Go on behind ``done`` passes that gave ``sums`` (of ``values``)."""
        if self._elements is not None:
            self._elements.go_on(done)
        places = {f"{name}:{dim}": (name, dim) for name, dims in self._dims.items() for dim in dims}
        self._sums = {places[key]: value for key, value in sums.items()}

    @property
    def values(self) -> dict[str, NDArray[np.float64]]:
        """The sums so far, for a record."""
        return {f"{name}:{dim}": value for (name, dim), value in self._sums.items()}

    def take(self, name: str, parameter: nn.Parameter) -> None:
        """Add the gradient of a parameter."""
        assert parameter.grad is not None
        if self._elements is not None:
            self._elements.add(name, parameter.grad)
            return
        for dim, sums in self.sums_of(name, parameter):
            value = finite_sums(sums, name)
            before = self._sums.get((name, dim))
            self._sums[name, dim] = value if before is None else before + value

    def sums_of(self, name: str, parameter: nn.Parameter) -> Iterator[tuple[int, Tensor]]:
        """Each dimension that has channels, and the sums of w dL/dw along it."""
        weight, gradient = parameter.detach(), parameter.grad
        assert gradient is not None
        for dim in self._dims[name]:
            yield dim, channel_sums(lambda part: weight[part] * gradient[part], weight.shape, dim)

    def take_outside(self) -> None:
        """Add the gradients of what is in no block, and drop them."""
        for name in self.outside:
            parameter = self._model.get_parameter(name)
            if parameter.grad is not None:
                self.take(name, parameter)
                parameter.grad = None

    def along(self, name: str, dim: int, *, absolute: bool) -> NDArray[np.float64]:
        """The sums over all channels of a tensor; of absolute products where that is asked for."""
        weight = get_tensor(self._model, name)
        if self._elements is None:
            assert not absolute
            return self._sums.get((name, dim), np.zeros(weight.shape[dim]))
        gradient = self._elements.sum_of(name)
        if gradient is None:
            return np.zeros(weight.shape[dim])
        value = weight.detach().cpu()

        def products(part: slice) -> Tensor:
            product = value[part] * gradient[part]
            return product.abs() if absolute else product

        return finite_sums(channel_sums(products, value.shape, dim), name)


class _GradientFiles:
    """Sums of gradients, a file for each tensor.

    A pass writes files beside those of the pass before, so that one that is killed can be done
    again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._pass = folder, _NO_PASS
        self._written: set[str] = set()

    def begin(self, *, accumulate: bool) -> None:
        self._pass = self._pass + 1 if accumulate else 0
        self._written = set()

    def go_on(self, done: int) -> None:
        self._pass = done - 1

    def add(self, name: str, gradient: Tensor) -> None:
        before = self._pass if name in self._written else self._pass - 1
        value = gradient.detach().cpu()
        if before > _NO_PASS:
            value = value + load_file(self._file(before, name))["sum"]
        with new_file(self._file(self._pass, name)) as unfinished:
            save_file({"sum": value.contiguous()}, unfinished)
        self._written.add(name)

    def sum_of(self, name: str) -> Tensor | None:
        file = self._file(self._pass, name)
        return load_file(file)["sum"] if file.is_file() else None

    def _file(self, number: int, name: str) -> Path:
        folder = self._folder / f"gradients-{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.safetensors"


@contextmanager
def measured_by_block(
    denoiser: Denoiser, groups: Sequence[Group], device: torch.device, folder: Path
) -> Iterator[GradientSums]:
    """Until the end, calls of ``denoiser`` work one block at a time, and gradients go into sums.

    Args:
        denoiser: The model, on the CPU.
        groups: Whose tensors' gradients count.
        device: Where blocks are worked.
        folder: For activations, and for gradients that are added up element by element.
    """
    model = denoiser.model
    names = [block.name for block in stream_blocks(model, denoiser.family.block_lists)]
    sums = GradientSums(model, names, groups, device, folder)

    def take(name: str, parameter: nn.Parameter) -> None:
        sums.take(name, parameter)

    keep, apart = keep_in_files(folder, device), denoiser.family.called_apart
    alone = Alone(device, keep, take, frozenset(sums.parameter_names), apart)
    model.requires_grad_(False)
    for name in sums.outside:
        model.get_parameter(name).requires_grad_(True)
    with blocks_alone(model, names, alone):
        yield sums


def count_by_block(
    place: WithoutMemory,
    denoiser: Denoiser,
    groups: Sequence[Group],
    inputs: Inputs,
    *,
    elements: bool,
) -> int:
    """The most bytes that a pass takes, counted on tensors without memory.

    Args:
        place: Where they are.
        denoiser: The model, brought there.
        groups: Whose tensors' gradients count.
        inputs: Of one call, brought there.
        elements: Whether gradients are added up element by element.

    Returns:
        Bytes beside weights that stay in their files; on a GPU with the weights that are on it.
    """
    model = denoiser.model
    names = [block.name for block in stream_blocks(model, denoiser.family.block_lists)]
    sums = GradientSums(model, names, groups, place.device, Path())

    def take(name: str, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        if elements:
            _ = parameter.grad + parameter.grad
        else:
            for _ in sums.sums_of(name, parameter):
                pass

    def keep(value: Tensor) -> Recall:
        shape, dtype = value.shape, value.dtype
        return lambda: torch.empty(shape, dtype=dtype, device=place.device)

    alone = Alone(place.device, keep, take, frozenset(sums.parameter_names))
    for name in sums.outside:
        model.get_parameter(name).requires_grad_(True)
    with blocks_alone(model, names, alone):
        peak = place.peak(lambda: torch.mean(denoiser.call(inputs).square()), times=1)
    return peak + (_weights_there(model, names) if place.device.type != "cpu" else 0)


def _weights_there(model: nn.Module, names: Sequence[str]) -> int:
    """Bytes of what is in no block, and of the largest block."""
    blocks = [_bytes(model.get_submodule(name)) for name in names]
    return _bytes(model) - sum(blocks) + max(blocks, default=0)


def _bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.parameters())
