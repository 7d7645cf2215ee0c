"""What a stage may read: typed values, each of which its key holds.

A stage's inputs are a frozen dataclass. The key of the stage is the hash of these inputs, and its
function receives nothing else, so that it cannot read what its key does not hold:

    a file           FileInput: read by its path, keyed by its content
    part of a model  ModelInput: read by its Source, keyed by the facts that are named
    a recipe section as it is, or SectionInput without what does not matter
    an earlier stage its StageResult, keyed by that stage's key
    plain values     numbers, texts, tuples, mappings, dataclasses of these
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import BaseModel

from diffc.data.inputs import data_text_tokens
from diffc.digests import known_digest
from diffc.input_size import Size
from diffc.models.other_parts import parts_digest
from diffc.recipe.words import Shard

if TYPE_CHECKING:
    import torch

    from diffc.models.denoiser import Denoiser
    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc_export.specs import TensorSpec

Value = TypeVar("Value")
Section = TypeVar("Section", bound=BaseModel)
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


@runtime_checkable
class Keyed(Protocol):
    """A value that says itself what of it decides the outcome of a stage that reads it."""

    def keyed(self) -> object:
        """What stands for the value in a key: plain values, or what ``keyed`` takes."""


@dataclass(frozen=True)
class FileInput:
    """A file, or a folder of files, that a stage reads.

    Attributes:
        path: Where it lies now. The key does not hold the path.
        digest: What stands for its content in the key.
    """

    path: Path
    digest: object

    @classmethod
    def of(cls, path: Path) -> FileInput:
        """The file at ``path`` by the sha256 of its content; a folder by all of its files."""
        return cls(path, content_digest(path))

    def keyed(self) -> object:
        """The content."""
        return self.digest


@dataclass(frozen=True)
class ModelInput:
    """A model, or some of its parts, that a stage reads.

    Attributes:
        source: The model's files.
        facts: What stands in the key for the parts that the stage reads.
    """

    source: Source
    facts: object

    @classmethod
    def denoiser(cls, source: Source) -> ModelInput:
        """The denoiser: its config, its weights and the scheduler's config."""
        return cls(source, source.digest)

    @classmethod
    def parts(cls, source: Source) -> ModelInput:
        """What a saved model takes from the pipeline beside the denoiser."""
        return cls(source, parts_digest(source))

    @classmethod
    def vae(cls, source: Source) -> ModelInput:
        """The VAE, or that there is none."""
        return cls(source, None if source.vae is None else source.vae.digest)

    def keyed(self) -> object:
        """The facts."""
        return self.facts


@dataclass(frozen=True)
class SectionInput(Generic[Section]):
    """A section of the recipe without some of its fields.

    Attributes:
        section: The section.
        without: Fields that the key does not hold: they do not change the outcome, or name files
            that the key holds by their content.
    """

    section: Section
    without: tuple[str, ...] = ()

    def keyed(self) -> object:
        """The other fields."""
        return self.section.model_dump(mode="json", exclude=set(self.without))


@dataclass(frozen=True)
class Unkeyed(Generic[Value]):
    """A value that changes how long the work takes, and nothing of its outcome."""

    value: Value

    def keyed(self) -> object:
        """Nothing."""
        return None


@dataclass(frozen=True)
class RunShape:
    """What decides the denoiser's inputs in a run, beside the model.

    Attributes:
        resolution: The size of the denoiser's own input; None: the config's own.
        tokens: How many tokens the texts of the data have; None: the pipeline's own number.
        shard: Whether networks are sharded over the processes of a launch. The key does not hold
            it, as it does not hold the number of processes: the outcome is the same but for
            rounding.
    """

    resolution: Size | None
    tokens: int | None
    shard: Shard = "auto"

    @classmethod
    def of(cls, recipe: Recipe) -> RunShape:
        """The shape of a run of ``recipe``."""
        return cls(recipe.export.size, data_text_tokens(recipe), recipe.shard)

    def keyed(self) -> object:
        """The inputs' shape."""
        return {"resolution": self.resolution, "tokens": self.tokens}

    def specs(self, source: Source) -> list[TensorSpec]:
        """The inputs of ``source``'s denoiser."""
        from diffc.models.inputs import input_specs

        return input_specs(source, self.resolution, self.tokens)

    def open(self, source: Source) -> Denoiser:
        """``source``'s denoiser, loaded."""
        from diffc.models.denoiser import open_denoiser

        return open_denoiser(source, self.specs(source))

    @contextmanager
    def mapped(self, source: Source) -> Iterator[Denoiser]:
        """``source``'s denoiser on the CPU, to be read alone: its weights stay in their files."""
        from diffc.models.denoiser import denoiser_of
        from diffc.models.families import family
        from diffc.models.mapped import mapped_denoiser

        with mapped_denoiser(source) as model:
            known = family(source.class_name)
            yield denoiser_of(model, known, source.scheduler, self.specs(source))

    def open_on_meta(self, source: Source) -> Denoiser:
        """``source``'s denoiser on the meta device: shapes without values."""
        from diffc.models.denoiser import denoiser_of
        from diffc.models.families import family
        from diffc.models.load import meta_denoiser

        kind = family(source.class_name)
        return denoiser_of(meta_denoiser(source), kind, source.scheduler, self.specs(source))

    def wants_sharding(self, *needs: tuple[Source, int]) -> bool:
        """Whether this stage shards its networks; the same on every process of a launch.

        Args:
            needs: Each model, with the bytes that a parameter takes on a process where it is whole:
                4 for its weight, 4 for its gradient, ...
        """
        from diffc.data.sharding import wants_sharding

        return wants_sharding(
            self.shard, lambda: sum(each * parameter_count(source) for source, each in needs)
        )

    def open_sharded(
        self, source: Source, dtype: torch.dtype, *, trained: bool = False
    ) -> Denoiser:
        """``source``'s denoiser, sharded over all processes, each on its own device.

        The first process alone reads the weights.

        Args:
            source: The model.
            dtype: Of the forward passes.
            trained: Whether weights have gradients.
        """
        from diffc.data.precision import best_device
        from diffc.data.processes import process_share
        from diffc.data.sharding import shard_model

        is_first = process_share()[0] == 0
        whole = self.open(source) if is_first else self.open_on_meta(source)
        whole.model.requires_grad_(trained)
        return whole.with_model(shard_model(whole.model, whole.family, best_device(), dtype))


def parameter_count(source: Source) -> int:
    """How many parameters the denoiser has."""
    from diffc.models.load import meta_denoiser

    return sum(parameter.numel() for parameter in meta_denoiser(source).parameters())


def check_unaltered(inputs: object) -> None:
    """Refuse the outcome of a stage while which others altered the weights of one of its models.

    Raises:
        InputError: Naming the file.
    """
    for field in fields(inputs) if is_dataclass(inputs) else ():
        value = getattr(inputs, field.name)
        if isinstance(value, ModelInput):
            value.source.check_unaltered()


def keyed(value: object) -> JsonValue:
    """What stands for ``value`` in a key, as JSON has it.

    Raises:
        TypeError: The value is of a kind whose content a key cannot hold, such as a bare path.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Keyed):
        return keyed(value.keyed())
    if isinstance(value, BaseModel):
        return keyed(value.model_dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: keyed(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): keyed(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(entry) for entry in value]
    raise TypeError(f"a stage's key cannot hold {type(value).__name__} {value!r}")


def content_digest(path: Path) -> str:
    """sha256 of a file, or of every file's name and content in a folder."""
    if path.is_file():
        return known_digest(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode() + known_digest(file).encode())
    return total.hexdigest()
