"""The denoiser's calls for one batch of images, with guidance: buffers that are allocated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .values import Array

if TYPE_CHECKING:
    from .calls import ImageRequest
    from .pipeline import Pipeline


class GuidedCall:
    """The denoiser's inputs for one batch, allocated once and filled again at every step.

    Attributes:
        sample: (B, C, H, W), the part of the input for which the loop writes x, scaled. Rows
            beyond the images (the second half for guidance, padding up to a batch size that the
            engine serves) follow it in the same array.
    """

    def __init__(self, pipeline: Pipeline, request: ImageRequest, start: int, stop: int) -> None:
        images = stop - start
        rows = images * request.rows
        together = rows <= pipeline.largest_batch
        self._denoise = pipeline.denoise
        self._images, self._guidance = images, request.guidance
        self._channels = pipeline.sample_shape[0]
        # where the largest batch is 1, the two halves of guidance are two calls
        size = pipeline.batch_for(rows if together else images)
        self._calls = [slice(0, size)] if together else [slice(0, size), slice(size, 2 * size)]
        total = self._calls[-1].stop
        shapes = {spec.name: spec.shape for spec in pipeline.inputs}
        shapes[pipeline.sample_input.name] = pipeline.shape_at(request.size)
        self._inputs = {
            s.name: np.zeros((total, *shapes[s.name]), s.dtype) for s in pipeline.inputs
        }
        self._all = self._inputs[pipeline.sample_input.name]
        self._time = self._inputs[pipeline.timestep_input.name]
        self.sample = self._all[:images]
        self._second = slice(images, 2 * images) if together else slice(size, size + images)
        for name, values in request.conditions.items():
            self._inputs[name][:images] = values[start:stop]
        for name, values in request.unconditional.items():
            self._inputs[name][self._second] = values[start:stop]
        self._views = [{k: v[rows] for k, v in self._inputs.items()} for rows in self._calls]

    def __call__(self, sample: Array, timestep: float) -> Array:
        """Return the model's output (B, C, H, W) in float32; ``sample`` is ``self.sample``."""
        self._time[...] = timestep
        if self._guidance == 1.0:
            return self._output(self._denoise(self._views[0]))[: self._images]
        self._all[self._second] = sample
        outputs = [self._output(self._denoise(view)) for view in self._views]
        if len(outputs) == 2:
            given, none = outputs[0][: self._images], outputs[1][: self._images]
        else:
            given, none = outputs[0][: self._images], outputs[0][self._second]
        guided: Array = given - none
        guided *= self._guidance
        guided += none
        return guided

    def _output(self, output: Array) -> Array:
        """Return ``output`` in float32, without the channels of a learned variance."""
        return output[:, : self._channels].astype(np.float32, copy=False)
