"""``build``: targets, precisions and batch sizes, and what single targets override."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from diffc.errors import known_names
from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.validation import validate
from diffc.recipe.words import Gpus, Numbers, Words
from diffc_export import targets

DEFAULT_TARGET = "ort-cpu"

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]
TorchWay = Literal["eager", "compiled", "graphs"]


class TargetOverrides(RecipeSection):
    """``build.each.TARGET``: the options of one target; None: as for every target."""

    precision: Precision | None = None
    batch: Numbers | None = None
    one_profile: bool | None = None
    gpu: Gpus | None = None
    threads: int | None = Field(default=None, ge=1)
    torch: TorchWay | None = None


class BuildSection(RecipeSection):
    """``build``: the engines to build.

    Attributes:
        target: the targets.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``; ``auto`` measures, and takes
            the fastest that passes parity (stages/precision_auto.py).
        batch: the batch sizes to build for and to measure.
        one_profile: True builds one profile from the smallest to the largest batch size; False
            builds one profile for each.
        gpu: compute capabilities of ahead-of-time builds (sm86, sm89, ...), or cards (L4, A100).
        threads: CPU threads of the engine; None: the machine's cores.
        torch: how the torch target runs the model.
        each: target -> the options in which it differs from all these.
    """

    target: Words = (DEFAULT_TARGET,)
    precision: Precision = "fp32"
    batch: Numbers = (1,)
    one_profile: bool = False
    gpu: Gpus = ()
    threads: int | None = Field(default=None, ge=1)
    torch: TorchWay = "eager"
    each: dict[str, TargetOverrides] = Field(default_factory=dict)

    @field_validator("target")
    @classmethod
    def _as_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names in the registry's spelling: upper and lower case are the same."""
        known = {name.lower(): name for name in targets.names()}
        return tuple(dict.fromkeys(known.get(name.lower(), name) for name in names))

    @model_validator(mode="after")
    def _check_targets_and_batches(self) -> BuildSection:
        known = targets.names()
        if not self.target:
            raise ValueError(f"build.target names no target (known: {', '.join(known)})")
        for name in (*self.target, *self.each):
            if name not in known:
                raise ValueError(f"unknown target '{name}' ({known_names(name, known)})")
        for batch in (self.batch, *(overrides.batch for overrides in self.each.values())):
            if batch is not None and (not batch or min(batch) < 1):
                raise ValueError(f"batch: {list(batch)} has a size below 1")
        return self

    def of(self, name: str) -> BuildSection:
        """The options of one target: its overrides in place of what every target has."""
        overrides = self.each.get(name, TargetOverrides()).model_dump(exclude_none=True)
        return self.model_copy(update={**overrides, "target": (name,), "each": {}})


def with_overrides(
    build: BuildSection, overrides: Mapping[str, object], where: str
) -> BuildSection:
    """``build`` with ``overrides`` for the targets that it builds, in place of their earlier ones.

    Args:
        overrides: fields of TargetOverrides. The targets that ``build`` does not build keep theirs.
        where: what to blame in an error, such as "the options".

    Raises:
        RequestError: as ``validate`` does.
    """
    checked = validate(TargetOverrides, overrides, where).model_dump(exclude_none=True)
    if not checked:
        return build
    options = build.model_dump()
    each = options["each"]
    changed = {name: {**each.get(name, {}), **checked} for name in build.target}
    return validate(BuildSection, {**options, "each": {**each, **changed}}, where)
