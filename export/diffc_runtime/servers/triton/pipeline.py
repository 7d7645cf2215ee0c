"""The ``pipeline`` model: the whole denoising loop in this process, engine included.

Needs the engine's runtime (onnxruntime, ...) and numpy in the server's Python.
"""

from __future__ import annotations

from typing import Any

import serving


class PipelineModel:
    """Loaded once for each instance."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Open the bundle, and make one image's first step, so that no request waits for it."""
        folder = serving.version_folder(arguments)
        from diffc_runtime import open_bundle

        self.pipeline = open_bundle(folder, serving.threads(arguments))
        serving.warm_up(self.pipeline)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request."""
        answers: list[Any] = serving.responses(self.pipeline, requests)
        return answers


TritonPythonModel = PipelineModel
"""The name that Triton looks for."""
