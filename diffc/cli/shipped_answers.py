"""Answers of plan and inspect that ship with diffc, for the models that ship with it.

Whoever tries diffc asks these questions first, and without an answer PyTorch's import alone takes
seconds. An answer is known by the content of what it follows from: the model's files but for its
weights, and the options of the recipe. The code that gave it is in no key:
tests/cli/test_shipped_answers.py works every answer out anew, and scripts/fill_answers.py writes
the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.models.shipped import SHIPPED, is_shipped
from diffc_runtime.files import file_digest

if TYPE_CHECKING:
    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc_runtime.json_types import JsonDict

ANSWERS = SHIPPED / "answers.json"


def shipped_answer(verb: str, source: Source, recipe: Recipe, scores: Path) -> JsonDict | None:
    """The answer that ships for a question; None where there is none.

    Args:
        verb: What is asked.
        source: The model.
        recipe: Every option.
        scores: The file of the importance that counts, if it is there: no answer ships for that.
    """
    if not is_shipped(source.name) or source.all_loras or scores.is_file():
        return None
    try:
        answer = json.loads(ANSWERS.read_text("utf-8")).get(question(verb, source, recipe))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def question(verb: str, source: Source, recipe: Recipe) -> str:
    """What an answer is known by."""
    from diffc.stages.plan import alignment

    files = sorted(set(source.files) - set(source.weights))
    content = [(path.relative_to(source.folder).as_posix(), file_digest(path)) for path in files]
    prompts = recipe.data.prompts
    value: list[object] = [verb, source.name, source.class_name, content]
    value += [recipe.data.source, prompts and file_digest(Path(prompts))]
    value += [recipe.export.model_dump(mode="json")]
    if verb == "plan":
        options = recipe.prune.model_dump(mode="json", exclude={"importance"})
        value += [options, alignment(recipe)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
