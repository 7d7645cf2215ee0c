"""Where the blocks of a network touch its stream: what flows from block to block.

A transformer's stream is never cut. A U-Net's is, so each of its blocks reads and gives some of
the dense block's channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class StreamBlock:
    """A block of a network.

    Attributes:
        name: The module.
        reads: Argument of its call -> the tensor whose columns are the channels of that argument.
            Arguments that are not named here are never cut.
        gives: The tensor whose rows are the channels of the output; empty where it is never cut.
    """

    name: str
    reads: Mapping[str, str] = field(default_factory=dict)
    gives: str = ""

    @property
    def list_name(self) -> str:
        """The list of blocks that it is in."""
        return self.name.rpartition(".")[0]


_OF_UNETS = {
    "ResnetBlock2D": StreamBlock(
        "", {"input_tensor": "conv1.weight", "temb": "time_emb_proj.weight"}, "conv2.weight"
    ),
    "Transformer2DModel": StreamBlock("", {"hidden_states": "proj_in.weight"}, "proj_out.weight"),
    "Attention": StreamBlock("", {"hidden_states": "to_q.weight"}, "to_out.0.weight"),
}


def stream_blocks(model: nn.Module, block_lists: Sequence[str]) -> list[StreamBlock]:
    """The blocks of ``model``, in its modules' order; together they are all that is deep in it.

    Args:
        model: The network; on the meta device too.
        block_lists: As the family names them; a network without such lists is a U-Net.
    """
    listed = [StreamBlock(name) for name in listed_block_names(model, block_lists)]
    return listed or list(_unet_blocks(model))


def listed_block_names(model: nn.Module, block_lists: Sequence[str]) -> list[str]:
    """The names of the blocks in the lists of ``model``; none in a U-Net."""
    return [
        f"{name}.{place}"
        for name, module in model.named_children()
        if name in block_lists and isinstance(module, nn.ModuleList)
        for place in range(len(module))
    ]


def _unet_blocks(model: nn.Module) -> Iterator[StreamBlock]:
    outer: list[str] = []
    for name, module in model.named_modules():
        names = [kind.__name__ for kind in type(module).__mro__]
        kind = next((_OF_UNETS[one] for one in names if one in _OF_UNETS), None)
        if kind is not None and not any(name.startswith(f"{other}.") for other in outer):
            outer.append(name)
            reads = {argument: f"{name}.{tensor}" for argument, tensor in kind.reads.items()}
            yield StreamBlock(name, reads, f"{name}.{kind.gives}")
