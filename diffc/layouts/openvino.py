"""openvino: OpenVINO IR, as OpenVINO GenAI's Text2ImagePipeline reads it.

Tokenizers become OpenVINO graphs too, by the package openvino_tokenizers. OpenVINO GenAI 2026.4
shifts FLUX.1's noise levels by the formula of FLUX.2, in which the number of steps counts. A folder
of FLUX.1 is of one size, so its scheduler's config has the shift of that size instead.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from diffc.errors import InputError, UnavailableError
from diffc.layouts.base import Layout
from diffc.models.classes import component_class
from diffc.models.components import Component
from diffc.models.foreign import foreign_errors, quiet_libraries

_GRAPH, _TOKENIZER = "openvino_model.xml", "openvino_tokenizer.xml"


class OpenVinoLayout(Layout):
    """Each component as openvino_model.xml and .bin, with the ONNX file's own precision."""

    name = __name__.rpartition(".")[2]
    readers = "OpenVINO GenAI"
    pipelines = frozenset(
        {
            "StableDiffusionPipeline",
            "StableDiffusionXLPipeline",
            "StableDiffusion3Pipeline",
            "FluxPipeline",
        }
    )
    scalar_timestep = False
    fixes_shift = True

    def check(self) -> None:
        """Raise UnavailableError without the two packages."""
        for package in (self.name, "openvino_tokenizers"):
            if find_spec(package) is None:
                raise UnavailableError(
                    f"--layout {self.name} needs the package {package.replace('_', '-')}",
                    hint="pip install openvino openvino-tokenizers, of the same version",
                )

    def write_graph(self, onnx_file: Path, folder: Path) -> None:
        """Write openvino_model.xml and .bin; the weights keep the ONNX file's number format."""
        import openvino

        graph = openvino.convert_model(onnx_file)
        openvino.save_model(graph, folder / _GRAPH, compress_to_fp16=False)

    def write_tokenizer(self, part: Component, folder: Path) -> None:
        """Write openvino_tokenizer.xml and .bin, which turn a text into tokens.

        Raises:
            InputError: The tokenizer cannot be opened or converted.
        """
        import openvino
        from openvino_tokenizers import convert_tokenizer

        wrong = f"the tokenizer {part.folder} cannot become an OpenVINO graph"
        with quiet_libraries(), foreign_errors(wrong):
            loaded = component_class(part).from_pretrained(part.folder, local_files_only=True)
            graph = convert_tokenizer(loaded, with_detokenizer=False)
        if graph is None:
            raise InputError(wrong)
        openvino.save_model(graph, folder / _TOKENIZER)

    def usage(self, folder: Path, pipeline: str) -> str:
        """Return a line of Python that opens ``folder``."""
        return f"openvino_genai.Text2ImagePipeline('{folder}', 'CPU')"


LAYOUT = OpenVinoLayout()
"""The one instance; see ``write.LAYOUTS``."""
