"""An engine in the python backend, with the inputs, outputs and batching of its own backend.

It is used if the server's build has no backend for the engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import serving
import triton_python_backend_utils as pb_utils


class EngineModel:
    """Loaded once for each instance."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Open the engine beside this file."""
        folder = serving.version_folder(arguments)
        from diffc_runtime import open_engine
        from diffc_runtime.bundles import fitting_engine

        self.engine = open_engine(fitting_engine(folder), serving.threads(arguments))
        self.output = self.engine.info["outputs"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests that the server put into one batch as one batch.

        Where the engine cannot, each runs alone: a wrong request has an error of its own.
        """
        from diffc_runtime import UnfitEngine

        try:
            return self._together(requests)
        except UnfitEngine as error:
            if len(requests) == 1:
                message = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
                return [pb_utils.InferenceResponse(error=message)]
            return [response for request in requests for response in self.execute([request])]

    def _together(self, requests: list[Any]) -> list[Any]:
        parts = [self._inputs(request) for request in requests]
        names = [spec.name for spec in self.engine.inputs]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in names}
        output = self.engine.run(rows)
        ends = np.cumsum([len(part[names[0]]) for part in parts])[:-1]
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(self.output, piece)])
            for piece in np.split(output, ends)
        ]

    def _inputs(self, request: Any) -> dict[str, Any]:
        arrays = {}
        for spec in self.engine.inputs:
            array = pb_utils.get_input_tensor_by_name(request, spec.name).as_numpy()
            arrays[spec.name] = array.reshape(-1, *spec.shape)
        return arrays


TritonPythonModel = EngineModel
"""The name that Triton looks for."""
