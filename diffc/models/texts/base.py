"""What a kind of text encoder states: its outputs, its inputs, its call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

IDS, MASK = "input_ids", "attention_mask"


class TextEncoderKind(ABC):
    """Classes of text encoders that are called alike.

    A file of this folder has one instance, as ``KIND``. It imports torch inside methods alone.
    """

    class_names: ClassVar[Sequence[str]]
    """The classes, as model_index.json names them."""

    @abstractmethod
    def parts(
        self, class_name: str, config: JsonObject, length: int
    ) -> Mapping[str, tuple[int, ...]]:
        """Return the outputs by name, with their shapes without the batch.

        Args:
            class_name: The class.
            config: The content of config.json.
            length: The tokens of a call.
        """

    @abstractmethod
    def run(
        self, model: nn.Module, inputs: Mapping[str, Tensor], parts: Sequence[str]
    ) -> Mapping[str, Tensor]:
        """Call ``model`` and return the outputs that ``parts`` names, (B, ...) each."""

    def specs(self, config: JsonObject, length: int, masked: bool) -> list[TensorSpec]:
        """Return the inputs: tokens (L,), and their mask where the pipeline gives one."""
        words = int(config.get("vocab_size") or 1000)
        specs = [TensorSpec(IDS, (length,), "int64", example=range(words))]
        return [*specs, TensorSpec(MASK, (length,), "int64", example=1)] if masked else specs

    def width(self, config: JsonObject) -> int:
        """Return the width of a token's output."""
        return int(config.get("hidden_size") or 512)
