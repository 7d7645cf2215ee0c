"""The middle of a network, whose activations tell images apart, for the families' files.

listed_middle   transformers: the block in the middle of the lists of blocks
tokens_mean     what such a block gives back -> the mean over its places
unet_middle     U-Nets: the block between the levels down and up
places_mean     what such a block gives back -> the mean over height and width
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def listed_middle(model: nn.Module, block_lists: Sequence[str]) -> str | None:
    """Return the name of the block in the middle of all ``block_lists``, which follow each other.

    The earlier one of the two where their number is even: the last block of some classes gives
    back less than the others.

    Args:
        model: The network.
        block_lists: As the family names them.

    Returns:
        None where the network has no such list.
    """
    lists = {name: getattr(model, name, None) for name in block_lists}
    names = [
        f"{name}.{place}"
        for name, blocks in lists.items()
        if isinstance(blocks, nn.ModuleList)
        for place in range(len(blocks))
    ]
    return names[(len(names) - 1) // 2] if names else None


def tokens_mean(output: object) -> Tensor:
    """Return the mean (B, D) over the places of hidden states (B, places, D), a block's output.

    Blocks that carry a text beside the image give it back first.
    """
    states = output[-1] if isinstance(output, tuple) else output
    assert isinstance(states, Tensor)
    return states.flatten(1, -2).mean(1)


def unet_middle(model: nn.Module) -> str:
    """Return the name of a U-Net's middle block; of its last level down where it has none."""
    if getattr(model, "mid_block", None) is not None:
        return "mid_block"
    return f"down_blocks.{len(list(model.get_submodule('down_blocks').children())) - 1}"


def places_mean(output: object) -> Tensor:
    """Return the mean (B, C) over height and width of a block's output (B, C, H, W).

    A level down gives back its residuals too, after the sample.
    """
    sample = output[0] if isinstance(output, tuple) else output
    assert isinstance(sample, Tensor)
    return sample.mean((2, 3))
