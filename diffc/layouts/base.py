"""What a layout states: its name, who reads it, how it writes a graph and a tokenizer.

A layout is a pipeline folder: model_index.json, one folder for each component, the scheduler's and
the tokenizers' own files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from diffc.models.components import Component


class Layout(ABC):
    """A folder that another library opens."""

    name: ClassVar[str]
    """The name in ``--layout``."""
    readers: ClassVar[str]
    """The libraries that open it, for people."""
    pipelines: ClassVar[Collection[str]]
    """The classes of model_index.json that its readers know."""
    scalar_timestep: ClassVar[bool]
    """True if a U-Net takes its timestep as () and not as (1,)."""
    fixes_shift: ClassVar[bool] = False
    """True if the scheduler's config gets the shift of the folder's one size."""

    @abstractmethod
    def check(self) -> None:
        """Refuse the layout before any work where a package is missing.

        Raises:
            UnavailableError: The message names the package.
        """

    @abstractmethod
    def write_graph(self, onnx_file: Path, folder: Path) -> None:
        """Write a component's graph.

        Args:
            onnx_file: The graph, with the names and shapes that the readers use. It may be moved,
                and model.onnx.data beside it.
            folder: The component's folder.
        """

    def write_tokenizer(self, part: Component, folder: Path) -> None:  # noqa: B027
        """Add to a tokenizer's own files, which are in ``folder``, what the readers need.

        Raises:
            InputError: The tokenizer cannot be converted.
        """

    def tokenizer_class(self, part: Component) -> str:
        """Return the class that model_index.json names for a tokenizer."""
        return part.class_name

    @abstractmethod
    def usage(self, folder: Path, pipeline: str) -> str:
        """Return a line of Python that opens ``folder``."""
