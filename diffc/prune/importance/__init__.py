"""How much each unit of a network matters: one file for each score.

A file that sets ``SCORE`` is what ``--importance`` calls by the file's name: ``diff_pruning.py`` is
``diff-pruning``. Another package adds a score with an entry point of the group ``diffc.scores``
(docs/extending.md). Listing names imports no score and no torch.

base.py           what a score is given and returns
by_block.py       gradients of one block at a time, and passes that a killed run goes on behind
sums.py           sums over channels, a part of a tensor at a time
gradients.py      batches, losses and gradients, and their sums over a group's channels
diff_pruning.py   (default) mean squared changes of the output, over timesteps that matter
reference.py      the published ddpm_prune.py
taylor.py         the published rule with signed sums
magnitude.py      squared weights
random.py         random numbers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.errors import DiffcError
from diffc_export.discovery import Registry, entry_points

if TYPE_CHECKING:
    from diffc.prune.importance.base import Importance, Score, Subject
    from diffc.recipe import ImportanceSection
    from diffc_export.events import Work


def _fault(name: str, thing: object) -> str:
    from diffc.prune.importance.base import Score

    return "" if isinstance(thing, Score) else "its SCORE is not an instance of base.Score"


_SCORES: Registry[Score] = Registry("score", __name__, "SCORE", fault=_fault)


def score_names() -> list[str]:
    """Every score's name: diffc's own first. Nothing is imported."""
    return _SCORES.names()


def own_score_names() -> list[str]:
    """The names of diffc's own scores; the installed distributions are not searched."""
    return _SCORES.own_names()


def score(name: str) -> Score:
    """Return the score called ``name``.

    Raises:
        RequestError: No score is called so (with the nearest names), or two are.
        UnavailableError: It is another distribution's, and cannot be used.
    """
    return _SCORES.get(name)


def score_package(name: str) -> str | None:
    """The distribution that adds the score; None for one of diffc's own."""
    return _SCORES.package_of(name)


def check_score(name: str) -> None:
    """Raise what ``score`` raises. One of diffc's own is not imported, and so no torch."""
    if name in _added_names():
        score(name)


def broken_scores() -> dict[str, str]:
    """Return name -> why a score of another package cannot be used, in one line."""
    reasons = {}
    for name in _added_names():
        try:
            score(name)
        except DiffcError as error:
            reasons[name] = str(error)
    return reasons


def _added_names() -> list[str]:
    return list(dict.fromkeys(point.name for point in entry_points(_SCORES.group)))


def importance(subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
    """Measure how much every channel of the subject's groups matters.

    Args:
        subject: The model, its data and its groups.
        options: The score's name (``method``) and how it measures.
        seed: Decides everything random.

    Returns:
        The scores; ``why`` holds the method beside what the score says of itself.
    """
    from diffc.prune.importance.base import Importance

    result = yield from score(options.method).measure(subject, options, seed)
    return Importance(result.scores, {"method": options.method, **result.why})
