"""Branches: parts of a network that can be left out whole, such as a block of a transformer.

A branch adds something to what passes it by. Left out, it adds nothing: the network behaves as the
dense one does with that branch silenced (its last layer multiplied by zero). A family lists its
branches (``Family.branches``), since only it knows what is added to what.

    Branch            one part that can be left out, and what stands in its place
    Stretch           neighbouring blocks that go together: a unit of planning alone
    stretches         the stretches of each list of blocks
    remove_branches   leave some out
    removed_branches  the names of those that were left out of a model
    without           leave some out for a while
    covering          which branches take which units with them
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from diffc.models.groups import Group


@dataclass(frozen=True)
class Branch:
    """A part of a network that can be left out whole. Its size is 1: kept is 1 or 0.

    Attributes:
        name: The module, by which recipes and plans call the branch.
        kind: ``branch`` for the residual branch of a block, ``block`` for a whole block.
        returns: The arguments of the module's call that it gives back, changed: one, or several as
            a tuple. Left out, it gives them back as they are.
        keeps: A submodule that stays, and is applied to the first of ``returns``: a convolution on
            the shortcut. Empty for none.
        added: True where the caller adds what the module gives back, as a transformer block does
            with its attentions. Left out, it gives zeros back, of one element each.
        packs: True where the module gives back a tuple, even of one.
    """

    name: str
    kind: str
    returns: tuple[str, ...]
    keeps: str = ""
    added: bool = False
    packs: bool = False

    @property
    def size(self) -> int:
        """1: a branch is kept whole or not at all."""
        return 1

    @property
    def runs(self) -> int:
        """1, as for a group of channels that is no set of equal runs."""
        return 1

    def covers(self, module: str) -> bool:
        """Whether ``module`` goes with the branch."""
        kept = f"{self.name}.{self.keeps}"
        if self.keeps and (module == kept or module.startswith(f"{kept}.")):
            return False
        return module == self.name or module.startswith(f"{self.name}.")


@dataclass(frozen=True)
class Stretch(Branch):
    """Neighbouring blocks of one list, weighed together: what goes is its blocks.

    Two blocks may be worth less together than the sum of what each is worth alone. A stretch has a
    score of its own, and where the plan leaves it out, plan.json names its blocks.

    Attributes:
        blocks: In their order.
    """

    blocks: tuple[Branch, ...] = ()

    def covers(self, module: str) -> bool:
        """Whether ``module`` goes with one of the blocks."""
        return any(block.covers(module) for block in self.blocks)


LONGEST_STRETCH = 3
MANY_BLOCKS = 30
"""A list of more blocks has stretches of two alone, since each is measured."""


def stretches(branches: Sequence[Branch]) -> list[Stretch]:
    """The stretches of two and three neighbours among the blocks of ``branches``, list by list."""
    lists: dict[str, list[Branch]] = {}
    for branch in branches:
        name, _, place = branch.name.rpartition(".")
        if branch.kind == "block" and name.endswith("blocks") and place.isdigit():
            lists.setdefault(name, []).append(branch)
    every = []
    for name, blocks in lists.items():
        longest = LONGEST_STRETCH if len(blocks) <= MANY_BLOCKS else 2
        for length in range(2, longest + 1):
            for first in range(len(blocks) - length + 1):
                some = tuple(blocks[first : first + length])
                ends = (some[0].name.rpartition(".")[2], some[-1].name.rpartition(".")[2])
                every.append(Stretch(f"{name}.{'-'.join(ends)}", "block", (), blocks=some))
    return every


def single_branches(branches: Iterable[Branch]) -> list[Branch]:
    """``branches`` with the blocks of its stretches in the place of these, each once."""
    singles: dict[str, Branch] = {}
    for branch in branches:
        for one in branch.blocks if isinstance(branch, Stretch) else (branch,):
            singles[one.name] = one
    return list(singles.values())


def is_inside(branch: Branch, outer: Branch) -> bool:
    """Whether all of ``branch`` goes with ``outer``."""
    return all(outer.covers(one.name) for one in single_branches([branch]))


Unit = Group | Branch
"""What can shrink: the channels of a group, or a branch whole (kept 1 or 0 of a size of 1)."""


class Shortcut(nn.Module):
    """In the place of a branch that was left out: gives back what it was given."""

    def __init__(self, branch: Branch, original: nn.Module) -> None:
        super().__init__()
        self._names = tuple(inspect.signature(original.forward).parameters)
        self._returns = branch.returns
        self._keeps, self._added, self._packs = branch.keeps, branch.added, branch.packs
        if branch.keeps:
            self.add_module(branch.keeps, original.get_submodule(branch.keeps))

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = dict(zip(self._names, args, strict=False)) | kwargs
        given = [values[name] for name in self._returns]
        if self._keeps:
            given[0] = self.get_submodule(self._keeps)(given[0])
        if self._added:  # one element is broadcast wherever it is added, and scaled by gates
            given = [value.new_zeros((1,) * value.ndim) for value in given]
        return given[0] if len(given) == 1 and not self._packs else tuple(given)


def remove_branches(model: nn.Module, branches: Sequence[Branch]) -> None:
    """Leave ``branches`` out of ``model``, in place."""
    singles = single_branches(branches)
    for branch in singles:
        if any(other is not branch and other.covers(branch.name) for other in singles):
            continue  # it goes with the larger one
        parent, _, leaf = branch.name.rpartition(".")
        original = model.get_submodule(branch.name)
        setattr(model.get_submodule(parent), leaf, Shortcut(branch, original))


@contextmanager
def without(model: nn.Module, branches: Sequence[Branch]) -> Iterator[None]:
    """Leave ``branches`` out of ``model`` inside the block; afterwards it is as it was."""
    names = [branch.name for branch in single_branches(branches)]
    originals = {name: model.get_submodule(name) for name in names}
    remove_branches(model, branches)
    try:
        yield
    finally:
        for name in sorted(names, key=len):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, originals[name])


def covering(units: Sequence[Unit]) -> list[list[int]]:
    """For each of ``units`` the places of the branches that take it with them.

    A branch takes the branches inside it, and the groups whose every layer is inside it. A group
    that other layers share, such as the channels of a residual stream, stays.
    """
    branches = [(place, unit) for place, unit in enumerate(units) if isinstance(unit, Branch)]
    return [
        [place for place, branch in branches if branch is not unit and _takes(branch, unit)]
        for unit in units
    ]


def _takes(branch: Branch, unit: Unit) -> bool:
    if isinstance(unit, Branch):
        return is_inside(unit, branch)
    return all(branch.covers(piece.module) for piece in unit.slices)


def removed_branches(model: nn.Module) -> list[str]:
    """The names of the branches that were left out of ``model``."""
    return [name for name, module in model.named_modules() if isinstance(module, Shortcut)]


def listed_blocks(model: nn.Module, lists: Iterable[str], returns: Sequence[str]) -> list[Branch]:
    """Every block that is there of the model's ``lists``; each gives back ``returns``."""
    return [
        Branch(f"{name}.{place}", "block", tuple(returns))
        for name, module in model.named_children()
        if name in lists and isinstance(module, nn.ModuleList)
        for place, block in enumerate(module)
        if not isinstance(block, Shortcut)
    ]


def inner_branches(
    model: nn.Module, lists: Iterable[str], parts: Mapping[str, Sequence[str]]
) -> list[Branch]:
    """The attentions and feed-forwards that are there inside the blocks of the model's ``lists``.

    Args:
        model: The network.
        lists: The names of its lists of blocks.
        parts: Module of a block -> the arguments of its call in whose shape it gives something
            back, which the block adds.
    """
    return [
        Branch(f"{block.name}.{part}", "branch", tuple(returns), added=True)
        for block in listed_blocks(model, lists, ())
        for part, returns in parts.items()
        if _is_there(getattr(model.get_submodule(block.name), part, None))
    ]


def _is_there(module: nn.Module | None) -> bool:
    return module is not None and not isinstance(module, Shortcut)


BASIC_PARTS = {"attn1": ("hidden_states",), "attn2": ("hidden_states",), "ff": ("hidden_states",)}
"""What a BasicTransformerBlock of diffusers adds, as ``inner_branches`` takes it."""


def residual_branches(model: nn.Module, within: str = "") -> list[Branch]:
    """The branches of a U-Net: residual blocks, attentions, transformers and what is inside them.

    A residual block that resizes its input, and one that scales the sum, cannot be left out.

    Args:
        model: The network.
        within: The part of it to look at, such as ``decoder``; empty for the whole.
    """
    branches: list[Branch] = []
    for name, module in model.named_modules():
        if within and not name.startswith(f"{within}."):
            continue
        kind = type(module).__name__
        if kind == "ResnetBlock2D" and _only_adds(module):
            keeps = "conv_shortcut" if getattr(module, "conv_shortcut", None) is not None else ""
            branches.append(Branch(name, "branch", ("input_tensor",), keeps))
        elif kind == "Attention" and _is_residual(module):
            branches.append(Branch(name, "block", ("hidden_states",)))
        elif name and hasattr(module, "transformer_blocks"):
            branches += _transformer_branches(name, module)
    return branches


def _transformer_branches(name: str, transformer: nn.Module) -> list[Branch]:
    """A transformer inside a U-Net whole, its blocks where they are several, and their parts."""
    whole = Branch(name, "block", ("hidden_states",), packs=True)
    blocks = listed_blocks(transformer, ("transformer_blocks",), ("hidden_states",))
    parts = inner_branches(transformer, ("transformer_blocks",), BASIC_PARTS)
    inside = [*(blocks if len(blocks) > 1 else []), *parts]
    return [whole, *(replace(branch, name=f"{name}.{branch.name}") for branch in inside)]


def _only_adds(block: nn.Module) -> bool:
    resizes = any(getattr(block, name, None) is not None for name in ("upsample", "downsample"))
    return not resizes and getattr(block, "output_scale_factor", None) == 1.0


def _is_residual(attention: nn.Module) -> bool:
    adds = getattr(attention, "residual_connection", False)
    return bool(adds) and getattr(attention, "rescale_output_factor", None) == 1.0
