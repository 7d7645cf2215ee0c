"""Answers that follow from a model's configs and a request alone, kept in the cache.

``plan`` and ``inspect`` build the network on the meta device, which takes seconds, most of them
PyTorch's import. The same question is then answered without PyTorch. The first questions about the
models that ship are answered by shipped_answers.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diffc_runtime.files import file_digest

if TYPE_CHECKING:
    from diffc.models.source import Source
    from diffc.recipe import Recipe
    from diffc_runtime.json_types import JsonDict

_PACKAGE = Path(__file__).parents[1]
_CODE = ("prune", "models", "data")
"""The packages of diffc that decide the answers."""


def remembered(
    verb: str,
    source: Source,
    recipe: Recipe,
    scores: Path,
    compute: Callable[[], JsonDict],
) -> JsonDict:
    """The answer of ``compute``, from the cache where the same was asked before.

    Args:
        verb: What is asked.
        source: The model; its files count by size and time.
        recipe: Every option.
        scores: The file of the importance that counts, if it is there.
        compute: What gives the answer, as JSON.
    """
    from diffc.cli.shipped_answers import shipped_answer
    from diffc_export.cache import cached_json

    shipped = shipped_answer(verb, source, recipe, scores)
    if shipped is not None:
        return shipped
    return cached_json("answers", _key(verb, source, recipe, scores), compute, dict)


def _key(verb: str, source: Source, recipe: Recipe, scores: Path) -> str:
    from diffc.stages.plan import alignment
    from diffc.stages.preflight import model_key

    ranked = file_digest(scores) if scores.is_file() else None
    # a plan's widths follow from its targets' facts, which other packages may change
    align = alignment(recipe) if verb == "plan" else None
    value = [verb, model_key(source, recipe), source.name, ranked, align, _code()]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _code() -> list[tuple[str, int, int]]:
    """The files that decide the answers, by size and time: they change without a new version."""
    files = [path for name in _CODE for path in sorted((_PACKAGE / name).rglob("*.py"))]
    stats = [(path, path.stat()) for path in files]
    return [
        (str(path.relative_to(_PACKAGE)), stat.st_size, stat.st_mtime_ns) for path, stat in stats
    ]
