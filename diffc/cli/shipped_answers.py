"""Answers that ship, for the models that ship: to plan, to inspect, and how far a ratio can go.

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
_NOT_OF_REACH = {"importance", "ratio", "ratio_of", "fit", "allocate", "rounding"}
"""Options that say how far to go, or in which order: the least widths are the same."""


def refuse_out_of_reach(source: Source, recipe: Recipe) -> None:
    """Refuse a ratio, or a memory, that a model which ships cannot be brought to.

    Every other model is asked before its first stage, by PyTorch on the meta device.

    Raises:
        RequestError: in the words of that check.
    """
    from diffc.prune.reach import Reach, widest_value
    from diffc.recipe.words import byte_count

    options = recipe.prune
    known = shipped_answer("reach", source, recipe)
    if known is None or options.rounding == "paper":
        return
    most = byte_count(options.fit or "")
    if options.fit is not None and most is not None:
        dense = known["dense_memory"] * widest_value(recipe.build)
        Reach(known["stays"]["memory"]).check_fit(options.fit, most, dense)
    elif options.ratio_of in known["stays"]:
        Reach(known["stays"][options.ratio_of]).check_ratio(options.ratio)


def shipped_answer(
    verb: str, source: Source, recipe: Recipe, scores: Path | None = None
) -> JsonDict | None:
    """The answer that ships for a question; None where there is none.

    Args:
        verb: What is asked: ``plan``, ``inspect``, or ``reach``.
        source: The model.
        recipe: Every option.
        scores: The file of the importance that counts, if it is there: no answer ships for that.
    """
    ranked = scores is not None and scores.is_file()
    if not is_shipped(source.name) or source.all_loras or ranked:
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
    if verb == "reach":
        value += [recipe.prune.model_dump(mode="json", exclude=_NOT_OF_REACH), alignment(recipe)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
