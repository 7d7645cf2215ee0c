"""The denoiser's inputs in one run: its own, at the text length of the data.

denoiser_specs     the inputs that the run works with and exports
data_text_tokens   the length of the text conditions in a file of tensors
check_conditions   refuses a run in which a condition would have no value; notes on the rest
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffc.data.tensors import is_tensors
from diffc.errors import RequestError
from diffc.models.families import family
from diffc.models.source import Source, check_safetensors
from diffc.recipe import Recipe

if TYPE_CHECKING:
    from diffc_export.specs import TensorSpec

TEXT = "encoder_hidden_states"
LABELS = "class_labels"


def denoiser_specs(source: Source, recipe: Recipe) -> list[TensorSpec]:
    """Return the inputs of the denoiser of ``source`` in a run of ``recipe``."""
    from diffc.models.inputs import input_specs

    return input_specs(source, recipe.export.size, data_text_tokens(recipe))


def data_text_tokens(recipe: Recipe) -> int | None:
    """Return the number of tokens of the texts in the recipe's data; None if there are no texts."""
    path = Path(recipe.data.source)
    if not is_tensors(path) or not path.is_file():
        return None
    shape = check_safetensors(path).get(TEXT, ())
    return shape[1] if len(shape) == 3 and shape[1] else None


def check_conditions(source: Source, recipe: Recipe) -> list[str]:
    """Refuse a run in which the denoiser would lack a condition.

    Args:
        source: The model.
        recipe: The options of the run.

    Returns:
        A note if the data's texts have another length than the pipeline's.

    Raises:
        RequestError: There are prompts that the denoiser does not take, or labels that neither the
            data nor the model can give.
    """
    from diffc.models.inputs import input_specs

    specs = denoiser_specs(source, recipe)
    names = {spec.name for spec in specs}
    if recipe.data.prompts is not None and TEXT not in names:
        hint, others = "leave the prompts out", sorted(names - {"sample", "timestep"})
        if others:
            hint += f"; --data FILE.safetensors gives the conditions {', '.join(others)}"
        raise RequestError(
            f"prompts were given, and this {source.class_name} attends to no text", hint=hint
        )
    labels = next((spec for spec in specs if spec.name == LABELS), None)
    if labels is not None and not is_tensors(recipe.data.source):
        _check_labels(source, labels)
    usual = {spec.name: spec for spec in input_specs(source, recipe.export.size)}
    text = next((spec for spec in specs if spec.name == TEXT), None)
    if text is None or text.shape == usual[TEXT].shape:
        return []
    return [
        f"the texts in {recipe.data.source} have {text.shape[0]} tokens, not the usual "
        f"{usual[TEXT].shape[0]}: engines are made for {text.shape[0]}"
    ]


def _check_labels(source: Source, labels: TensorSpec) -> None:
    """Refuse labels of an unknown number of classes.

    Labels are drawn, or are the numbers of image folders: both need the number of classes.
    """
    if labels.shape == () and family(source.class_name).class_count(source.config):
        return
    kind = source.config.get("class_embed_type")
    raise RequestError(
        f"this {source.class_name} takes '{LABELS}' {('N', *labels.shape)} (class_embed_type "
        f"'{kind}'), and neither the data nor the config give them",
        hint=f"--data FILE.safetensors, with '{LABELS}' and the other inputs",
    )
