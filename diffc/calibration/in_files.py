"""Activations that are in files, and in memory only as far as they are used.

The pages of a file are written back and given away when memory is short. A file has no name: its
room on the disk is free again once no tensor needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from diffc_export.disks import write_array


def in_files(folder: Path) -> Callable[[Any], Any]:
    """A function that puts the tensors of a layer's output on the CPU, in files of ``folder``.

    It takes tensors alone, or in tuples, lists and mappings. Errors of a full disk are raised.
    """

    def put(tensor: Tensor) -> Tensor:
        values = tensor.detach().cpu().contiguous()
        if not values.numel():
            return values
        with tempfile.TemporaryFile(dir=folder) as file:
            write_array(values.reshape(-1).view(torch.uint8).numpy(), file)
            file.flush()
            pages = np.memmap(file, np.uint8, "c")  # the map outlives the file's name and handle
        return torch.from_numpy(pages).view(values.dtype).reshape(values.shape)

    return lambda output: tree_map_only(Tensor, put, output)
