"""The ``pipeline`` model: the whole denoising loop in this process, engine included.

Needs the engine's runtime (onnxruntime, ...) and numpy in the server's Python. The loops of several
requests run in threads; the steps of those that run at the same time share the engine's calls,
whatever their prompts, steps and guidance are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import serving
import triton_python_backend_utils as pb_utils

MOST_TOGETHER = 8
"""How many requests have their images made at the same time; others wait."""


class PipelineModel:
    """Loaded once for each instance."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Open the bundle, and make one image's first step, so that no request waits for it."""
        folder = serving.version_folder(arguments)
        from diffc_runtime import open_bundle
        from diffc_runtime.bundles import serves_any_batch
        from diffc_runtime.shared_calls import share

        self.pipeline = open_bundle(folder, serving.threads(arguments))
        serving.warm_up(self.pipeline)
        share(self.pipeline, serves_any_batch(folder))
        self.threads = ThreadPoolExecutor(MOST_TOGETHER)

    def execute(self, requests: list[Any]) -> None:
        """Begin with each request; its response is sent when its images are there."""
        for request in requests:
            sender = request.get_response_sender()
            self.threads.submit(_send, sender, serving.images_of(self.pipeline, request))

    def finalize(self) -> None:
        """Finish the images that were begun."""
        self.threads.shutdown()


def _send(sender: Any, make: Callable[[], Any]) -> None:
    """Send a response whatever happens: without one a client would wait for ever."""
    try:
        response = make()
    except Exception as error:
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{error}"))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


TritonPythonModel = PipelineModel
"""The name that Triton looks for."""
