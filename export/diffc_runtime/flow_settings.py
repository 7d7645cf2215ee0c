"""What the pipeline of a flow-matching model adds to its scheduler's config.

The config of the scheduler alone does not tell it, and the families of diffc say which pipeline
adds what. Imports nothing heavy: a family is asked for it when a model is found.
"""

from __future__ import annotations

from .json_types import JsonObject

ENDS_AT_ONE_STEP: JsonObject = {"sigmas_end": "1/steps"}
"""The last of the linear sigmas, before they are shifted, is 1 / steps: FLUX's."""
