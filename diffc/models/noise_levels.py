"""The noise levels of a flow-matching model's own pipeline, which depend on the image's size.

The scheduler's config alone does not determine them: FluxPipeline and StableDiffusion3Pipeline
compute ``mu`` from the number of image tokens, and FluxPipeline ends at 1 / steps. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffc_runtime.flow_settings import ENDS_AT_ONE_STEP
from diffc_runtime.image_sizes import image_shift
from diffc_runtime.json_types import JsonDict, JsonObject


def flow_levels(config: JsonObject, shape: Sequence[int]) -> JsonDict:
    """Return the entries that the pipeline adds to a flow scheduler's config.

    Args:
        config: The scheduler's config.
        shape: The shape of a sample without the batch: (C, H, W); (tokens, channels) of the engines
            of FLUX that an older diffc made.

    Returns:
        {} for schedulers that are not flow-matching. Otherwise ``mu``: the shift, if the config has
        ``use_dynamic_shifting``; and ``ENDS_AT_ONE_STEP``, which a family adds to the config, as
        FLUX does, whose sigmas fall linearly from 1 to that value before they are shifted.
    """
    if "FlowMatch" not in str(config.get("_class_name", "")):
        return {}
    levels = dict(ENDS_AT_ONE_STEP) if len(shape) == 2 else {}
    shift = None if len(shape) > 3 else image_shift(config, shape)
    if config.get("use_dynamic_shifting") and shift is not None:
        levels["mu"] = shift
    return levels
