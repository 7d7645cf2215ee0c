"""``prune``: what to remove, and how channels are ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from diffc.errors import known_names
from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import FinishedMemory, Fraction, OnOff, Words

_COUNTED = {
    "macs": "MACs",
    "params": "parameters",
    "channels": "channels",
    "latency": "latency",
    "memory": "memory",
}


class ImportanceSection(RecipeSection):
    """``prune.importance``: how channels are ranked.

    Attributes:
        method: the name of a score: ``diff-pruning``, ``magnitude``, ``random``, ``reference``,
            ``taylor`` (a file of prune/importance/ each), or another package's.
        threshold: T: timesteps whose L_t / L_max lies above it count.
        grid: cells of the loss curve.
        curve_images: images per cell.
        passes: batches whose gradients ``diff-pruning`` takes, each of other images and noise.
        batch: images in each of them.
        branch_rows: noised images that each branch is judged by, where depth is cut.
        gradient_accumulation: pieces in which each batch is worked: more need less memory, and
            change the scores by rounding alone.
        by_block: ``on`` has one block of the network in memory at a time, with its gradients and
            activations; what blocks are given lies in files, and their calls are made twice.
            ``auto`` does so where the whole network has no room. The scores change by rounding
            alone.
    """

    method: str = "diff-pruning"
    threshold: Fraction = Field(default=0.05, ge=0, lt=1)
    grid: int = Field(default=40, ge=2)
    curve_images: int = Field(default=16, ge=1)
    passes: int = Field(default=64, ge=1)
    batch: int = Field(default=8, ge=1)
    branch_rows: int = Field(default=32, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    by_block: Annotated[Literal["auto", "on", "off"], OnOff] = "auto"

    @model_validator(mode="after")
    def _check_by_block(self) -> ImportanceSection:
        from diffc.prune.importance import own_score_names

        if self.by_block == "on" and self.method not in own_score_names():
            raise ValueError(
                f"by_block: the score '{self.method}' is another package's, which takes the "
                "gradients of the whole network; use by_block: off"
            )
        return self

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str) -> str:
        from diffc.prune.importance import score_names

        known = score_names()
        method = next((name for name in known if name.lower() == method.lower()), method)
        if method not in known:
            words = known_names(method, known)
            raise ValueError(f"unknown importance score '{method}' ({words})")
        return method


class PruneSection(RecipeSection):
    """``prune``: what to remove.

    Attributes:
        ratio: the share to remove, between 0 and 1. At 0 nothing is removed.
        fit: the memory that the network may take, such as ``4GB``: the smallest ratio of memory at
            which it fits is removed, whatever ``ratio`` and ``ratio_of`` say.
        cut: what may go: ``width`` (channels), ``depth`` (branches and whole blocks), or both.
        ratio_of: what the share is of: MACs, parameters, channels, latency or memory (the weights,
            and what goes into and comes out of the layer where that is most).
        allocate: how the ratio is spread over the groups: ``uniform``, ``global``, ``latency``, or
            ``auto``: by latency where a target of the run runs here and measuring costs little of
            the run, else ``global``.
        rounding: ``align`` gives widths that the target likes, ``paper`` those of the publication.
        align: widths are a multiple of it; None: the multiple that the targets and the precision
            want.
        fixed: globs of layers that may not be cut.
        floors: glob -> the smallest share of channels to keep; a glob that matches branches and no
            channels keeps these branches.
        widths: glob -> channels to keep, whatever the allocation says; 0 leaves out the blocks and
            branches (``diffc inspect``) that match.
        importance: how channels are ranked.
    """

    ratio: Fraction = 0.5
    fit: FinishedMemory | None = None
    cut: Literal["width", "depth", "width,depth"] = "width"
    ratio_of: Literal["macs", "params", "channels", "latency", "memory"] = "macs"
    allocate: Literal["auto", "uniform", "global", "latency"] = "auto"
    rounding: Literal["align", "paper"] = "align"
    align: int | None = Field(default=None, ge=1)
    fixed: Words = ()
    floors: dict[str, Fraction] = Field(default_factory=dict)
    widths: dict[str, int] = Field(default_factory=dict)
    importance: ImportanceSection = ImportanceSection()

    @field_validator("cut", mode="before")
    @classmethod
    def _order_cut(cls, cut: object) -> object:
        """Both words in either order, as one text or as a list."""
        words = cut.split(",") if isinstance(cut, str) else cut
        if not isinstance(words, list | tuple):
            return cut
        both = {str(word).strip().lower() for word in words} == {"width", "depth"}
        return "width,depth" if both else cut

    @property
    def cuts_depth(self) -> bool:
        """Whether branches may be left out for the ratio's sake."""
        return "depth" in self.cut

    @property
    def removes_nothing(self) -> bool:
        """Whether the dense model stays as it is."""
        return not (self.ratio or self.fit or self.widths)

    @property
    def word(self) -> float | str:
        """What a run's folder is called by: the ratio, or what it has to fit into."""
        return self.ratio if self.fit is None else self.fit.replace(" ", "")

    @model_validator(mode="after")
    def _check_depth(self) -> PruneSection:
        if self.cuts_depth and self.allocate == "uniform":
            raise ValueError(
                "cut: uniform widths rank no branch, so that none can go; use --allocate global"
            )
        if self.fit is not None and self.rounding == "paper":
            raise ValueError("fit: the publication's rounding knows no memory; use align")
        if self.cuts_depth and (self.rounding == "paper" or self.ratio_of == "channels"):
            raise ValueError(
                "cut: the publication's rounding, and a share of channels, know widths alone; "
                "use --rounding align and --ratio-of macs"
            )
        return self

    @model_validator(mode="after")
    def _check_shares(self) -> PruneSection:
        if not 0 <= self.ratio < 1:
            counted = _COUNTED[self.ratio_of] + self._as_percent()
            raise ValueError(
                f"ratio {self.ratio:g} is not between 0 and 1 (0.5 removes half of the {counted})"
            )
        for pattern, floor in self.floors.items():
            if not 0 <= floor <= 1:
                raise ValueError(f"floors: {pattern}: {floor} is not a share between 0 and 1")
        return self

    def _as_percent(self) -> str:
        """What a ratio such as 30 means where it is meant in percent."""
        return f"; {self.ratio:g} % is {self.ratio / 100:g}" if 1 < self.ratio < 100 else ""


_OF_WIDTHS_ALONE = {
    "allocate": ("uniform",),
    "rounding": ("paper",),
    "ratio_of": ("channels",),
}
"""Options that leave no branch out, whatever ``cut`` says: PruneSection refuses both together."""


def of_widths_alone(options: Mapping[str, object]) -> bool:
    """Whether some of these options of ``prune``, as a recipe has them, know no depth."""
    return any(
        str(options.get(name, "")).strip().lower() in values
        for name, values in _OF_WIDTHS_ALONE.items()
    )


def by_latency(options: PruneSection) -> bool:
    """Whether the options ask for widths that depend on measured latencies."""
    return options.rounding == "align" and "latency" in (options.allocate, options.ratio_of)
