"""Networks that are sharded over the processes of a launch, by PyTorch's FSDP2.

    wants_sharding   whether a stage shards its networks
    shard_model      a sharded copy of a network
    shard_units      the parts of a network whose weights are collected together
    is_sharded       whether a network is one
    calls_dtype      what its forward passes run in
    local            this process's part of a tensor
    part_of          this process's part of a value
    whole            the value of a tensor that may be sharded
    write_whole      give a tensor that may be sharded a value
    gather_weights   the first process gets every weight

Every process holds its rows of each tensor. Before a block runs, its weights are collected from all
processes, and dropped after it; gradients are averaged over the processes and divided again (Zhao
et al. 2023, "PyTorch FSDP"). So all processes make the same calls in the same order: one that makes
a call less leaves the others waiting.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffc.data.precision import best_device
from diffc.data.processes import process_share
from diffc.launch import fsdp_is_configured
from diffc.models.families.base import Family
from diffc.recipe.words import Shard

SHARDED_BATCH = 8
"""The most samples that a process draws at a time from a sharded network. A batch that is too large
cannot be halved: the other processes would wait in the middle of it."""
_RESIDUAL = "resnets"
"""What diffusers' U-Nets call their lists of residual blocks."""
_DTYPE = "_diffc_dtype"
"""The attribute of a sharded network with what its weights are collected in."""
_SHARE_OF_MEMORY = 0.8
"""What networks that are whole may take of a GPU's memory; the rest is for activations."""


def wants_sharding(choice: Shard, bytes_whole: Callable[[], int]) -> bool:
    """Whether a stage shards its networks; every process of a launch gets the same answer.

    Args:
        choice: The recipe's; ``auto`` shards where accelerate's configuration has FSDP, and where
            the networks whole would take too much of a GPU's memory.
        bytes_whole: What weights, gradients and the optimiser's state take on a process that holds
            them whole; it is called for ``auto`` alone.
    """
    if process_share()[1] == 1 or choice == "off":
        return False
    if choice == "on" or fsdp_is_configured():
        return True
    device = best_device()
    if device.type != "cuda":
        return False
    room = _SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory
    is_too_large = torch.tensor([int(bytes_whole() > room)], device=device)
    torch.distributed.all_reduce(is_too_large, torch.distributed.ReduceOp.MAX)
    return bool(is_too_large)


def shard_model(
    model: nn.Module, family: Family, device: torch.device, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return a sharded copy; ``model`` stays as it is.

    Args:
        model: The network in float32. The values are the first process's; on the other processes it
            may be on the meta device.
        family: The family of the network's class.
        device: The device of this process.
        dtype: What the weights are collected in, and the forward passes run in. Weights are kept,
            and gradients added up, in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # some blocks return views; the networks change none in place, and the losses are compared
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device.type, (process_share()[1],))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # autocast does; a timestep of 999 is none of bfloat16's numbers
    )
    sharded = _meta_copy(model)
    units = [sharded.get_submodule(name) for name in shard_units(model, family)]
    for unit in (*units, sharded):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    setattr(sharded, _DTYPE, dtype)
    sharded.to_empty(device=device)
    with torch.no_grad():
        values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in (*sharded.named_parameters(), *sharded.named_buffers()):
            write_whole(tensor, values[name].detach())
    return sharded


def _meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes and no memory."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta", memory_format=torch.contiguous_format)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def shard_units(model: nn.Module, family: Family) -> list[str]:
    """The names of the family's blocks, wherever they lie, and of a U-Net's residual blocks.

    Modules inside a block that are called outside of it come first. What is in none of them is
    collected with the network itself, for the whole of a call.
    """
    lists = {*family.block_lists, _RESIDUAL}
    names = {name for name, _ in model.named_modules()}
    apart = [name for name in family.called_apart if name in names]  # before what they lie in
    return apart + [
        f"{name}.{place}"
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in lists
        for place in range(len(module))
    ]


def reads_weights(shard: bool) -> bool:
    """Whether this process reads and writes the files of models.

    Args:
        shard: Whether the stage shards its networks (``wants_sharding``): then only the first
            process of the launch does, else every process.
    """
    return not shard or process_share()[0] == 0


def is_sharded(model: nn.Module) -> bool:
    """Whether ``model`` is a copy that ``shard_model`` returned."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _as_dtensor(tensor: Tensor) -> Tensor | None:
    """The tensor where it is sharded, else None; nothing is imported for one that cannot be."""
    if type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None


def calls_dtype(model: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """The number format of a sharded network's forward passes; ``otherwise`` for any other."""
    dtype: torch.dtype = getattr(model, _DTYPE, otherwise)
    return dtype


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, without a copy; all of one that is not sharded."""
    if (sharded := _as_dtensor(tensor)) is None:
        return tensor
    part: Tensor = sharded.to_local()  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """The value of a tensor that may be sharded; then every process must ask for it."""
    if (sharded := _as_dtensor(tensor)) is None:
        return tensor
    value: Tensor = sharded.full_tensor()  # type: ignore[attr-defined]
    return value


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of ``value``, which every process has, as ``like`` is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(
        value, like.device_mesh, like.placements, src_data_rank=None
    ).to_local()


@torch.no_grad()
def write_whole(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor that may be sharded the first process's ``value``, in place.

    Args:
        tensor: The same one on every process of the launch.
        value: Of its shape; on other processes its values are not read.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    given = torch.empty(value.shape, dtype=tensor.dtype, device=local(tensor).device)
    if process_share()[0] == 0:
        given.copy_(value)
    if isinstance(tensor, DTensor):
        part = distribute_tensor(given, tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(part.to_local())
    else:
        torch.distributed.broadcast(given, src=0)
        tensor.copy_(given)


@torch.no_grad()
def gather_weights(sharded: nn.Module, model: nn.Module) -> None:
    """Copy every weight into the first process's ``model``, one after the other.

    Args:
        sharded: The copy that ``shard_model`` returned.
        model: The network that it is a copy of; other processes' may be on the meta device.
    """
    goals = dict(model.named_parameters())
    for name, parameter in sharded.named_parameters():
        value = whole(parameter.detach())
        if process_share()[0] == 0:
            goals[name].copy_(value)
