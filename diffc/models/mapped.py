"""Networks with their weights mapped from their files: they are in memory only as far as used.

    mapped_denoiser   the denoiser, cut or not
    mapped_component  any network of a pipeline: VAE, text encoder, ...
    mapped_text_parts the pipeline with its tokenizers and text encoders alone
    map_weights       weights of a file into a network that is there

Pages of a mapped file are read when they are used and given back when memory is short, so that a
network may be larger than memory. They are those of the model's own files where these hold float32.
Of other numbers a float32 copy is written to temporary files, one for each tensor.

A weight that is changed in place gets memory of its own, and the file stays as it is. A file that
others alter meanwhile is noticed at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffc.digests import check_unaltered, file_version
from diffc.models.files import tensor_entries
from diffc.models.load import load_component, load_denoiser, load_text_parts
from diffc_export.disks import temporary_folder, write_array

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from diffc.models.components import Component
    from diffc.models.source import Source

_BYTES = torch.float32.itemsize
_PAGE = 4096
"""Bytes that even the smallest file takes; a smaller tensor stays in memory."""


@contextmanager
def mapped_denoiser(source: Source) -> Iterator[nn.Module]:
    """The denoiser of ``source``: float32, evaluation mode, on the CPU, and mapped.

    Args:
        source: The model. Pickled weights are read into memory first.

    Raises:
        InputError: The weights cannot be used, or were altered meanwhile; or the disk of temporary
            files has no room for float32 copies.
    """
    weights = tuple(source.versions)  # as they are now, before they are read
    with temporary_folder(bytes_to_copy(weights)) as folder:
        model = load_denoiser(source, own=_Copies(folder).float32)
        yield model
    source.check_unaltered()


@contextmanager
def mapped_component(part: Component) -> Iterator[nn.Module]:
    """A network of a pipeline: float32, evaluation mode, on the CPU, and mapped.

    Args:
        part: The component. Pickled weights are read into memory first.

    Raises:
        InputError: As ``mapped_denoiser``.
    """
    weights = part.need_weights().paths
    versions = {path: file_version(path) for path in weights}
    with temporary_folder(bytes_to_copy(weights)) as folder:
        model = load_component(part, own=_Copies(folder).float32)
        yield model
    check_unaltered(versions, {})


@contextmanager
def mapped_text_parts(source: Source) -> Iterator[DiffusionPipeline]:
    """The pipeline with its tokenizers and text encoders alone, these on the CPU and mapped.

    Args:
        source: The model.

    Raises:
        InputError: As ``mapped_denoiser``.
    """
    with ExitStack() as stack:
        yield load_text_parts(source, lambda part: stack.enter_context(mapped_component(part)))


def map_weights(model: nn.Module, file: Path) -> None:
    """Give ``model``, on the CPU, the weights of a file; they stay there until they are used.

    Args:
        model: The network, or a module of it.
        file: Safetensors of some of its parameters by their names, of the same shapes and dtypes.

    Raises:
        ValueError: A weight is not like the parameter of its name.
    """
    for name, value in load_file(file).items():
        parameter = model.get_parameter(name)
        if (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(f"{file}: {name} is not like the model's")
        parameter.data = value


def bytes_to_copy(weights: tuple[Path, ...]) -> int:
    """Bytes of the float32 copies of what the files of a model hold in other numbers."""
    entries = [
        entry
        for path in weights
        if path.suffix == ".safetensors"
        for entry in tensor_entries(path).values()
    ]
    others = [one for one in entries if one.dtype.startswith(("F", "BF")) and one.dtype != "F32"]
    return _BYTES * sum(one.elements for one in others)


class _Copies:
    """Float32 copies of tensors in files of a folder, each of which is mapped when it was written.

    One file for each: what maps a part of a file keeps it open, and networks have more tensors than
    a process may have open files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def float32(self, value: Tensor) -> Tensor:
        """``value`` itself, or its copy."""
        if not value.is_floating_point():
            return value.clone()
        is_own = value.dtype == torch.float32 and value.is_contiguous()
        if is_own or _BYTES * value.numel() < _PAGE:
            return value.float()
        self._count += 1
        path = self._folder / f"float32-{self._count}"
        with path.open("wb") as file:
            write_array(value.float().numpy(), file)
        copy = torch.from_file(str(path), shared=False, size=value.numel(), dtype=torch.float32)
        return copy.reshape(value.shape)
