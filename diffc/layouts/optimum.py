"""optimum: ONNX files, as optimum-onnx's ORTDiffusionPipeline reads them."""

from __future__ import annotations

import json
from pathlib import Path

from diffc.layouts.base import Layout
from diffc.models.components import Component
from diffc.models.files import read_json

_NEWER, _OLDER = "extra_special_tokens", "additional_special_tokens"
_VOCABULARIES = frozenset({"vocab.json", "spiece.model"})


class OptimumLayout(Layout):
    """COMPONENT/model.onnx, and model.onnx.data beside a large one."""

    name = "optimum"
    readers = "optimum-onnx"
    pipelines = frozenset(
        {
            "StableDiffusionPipeline",
            "StableDiffusionXLPipeline",
            "StableDiffusion3Pipeline",
            "FluxPipeline",
        }
    )
    scalar_timestep = True

    def check(self) -> None:
        """Do nothing: the files are plain ONNX."""

    def write_graph(self, onnx_file: Path, folder: Path) -> None:
        """Move the graph, and its weights where they are in a file of their own."""
        for path in (onnx_file, onnx_file.with_name(f"{onnx_file.name}.data")):
            if path.is_file():
                path.replace(folder / path.name)

    def write_tokenizer(self, part: Component, folder: Path) -> None:
        """Give the list of special tokens in tokenizer_config.json transformers 4's name for it.

        transformers 5 writes that list under a name that 4 does not know. Everything else of the
        tokenizer's files is left as it is.
        """
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        if isinstance(config.get(_NEWER), list):
            older = {**config, _OLDER: config[_NEWER]}
            del older[_NEWER]
            path.write_text(json.dumps(older, indent=2) + "\n", "utf-8")

    def tokenizer_class(self, part: Component) -> str:
        """Return the class that reads tokenizer.json, where that file is all there is.

        optimum-onnx 0.1 runs with transformers 4, in which the class without ``Fast`` needs a
        vocabulary in a file of its own; transformers 5 writes none.
        """
        names = {path.name for path in part.files}
        only_json = "tokenizer.json" in names and not names & _VOCABULARIES
        is_fast = part.class_name.endswith("Fast")
        return f"{part.class_name}Fast" if only_json and not is_fast else part.class_name

    def usage(self, folder: Path, pipeline: str) -> str:
        """Return a line of Python that opens ``folder``."""
        return f"optimum.onnxruntime.ORT{pipeline}.from_pretrained('{folder}')"


LAYOUT = OptimumLayout()
"""The one instance; see ``write.LAYOUTS``."""
