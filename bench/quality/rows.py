"""The rows of the study: how channels are chosen, and how the rest is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffc.recipe import LossesSection, recipe_file

PLAIN = {"losses": LossesSection(output=0, noise=1), "weighting": "none"}
SCRATCH, STOCK = "from scratch", "taylor, stock torch-pruning"
_OWN = recipe_file("unet2d").options["distill"]
DISTILLED = {"losses": _OWN["losses"]}
BY_RECIPE = {name: _OWN[name] for name in ("losses", "optimizer", "learning_rate")}
"""The recipe's optimiser too, in the place of the one that the other rows share."""
OURS, HALF, REFERENCE = "ours", "ours, half the steps", "reference + finetuning"


@dataclass(frozen=True)
class Row:
    """One line of the table: how channels are chosen, and how the rest is trained.

    prune: the recipe's part, or None for torch-pruning's own. cut: rows of one name share a model.
    repaired: whether the closed-form repair comes between the cut and the training.
    """

    name: str
    cut: str
    prune: dict | None
    train: dict = field(default_factory=lambda: dict(PLAIN))
    share: float = 1.0  # of the steps
    repaired: bool = False


def ranked(method: str, allocate: str) -> dict:
    return {"importance": {"method": method}, "allocate": allocate, "cut": "width"}


OUR_PRUNING = ranked("diff-pruning", "global")
WITH_DEPTH = {**OUR_PRUNING, "cut": "width,depth"}
ROWS = [  # in the order of work: what the claims need comes first
    Row(REFERENCE, "reference", ranked("reference", "uniform")),
    Row(OURS, "ours", OUR_PRUNING, DISTILLED),
    Row(HALF, "ours", OUR_PRUNING, DISTILLED, share=0.5),
    Row("ours, depth too, repaired", "repaired", WITH_DEPTH, DISTILLED, repaired=True),
    Row("ours, depth too, repaired, half the steps", "repaired", WITH_DEPTH, DISTILLED, share=0.5,
        repaired=True),
    Row("ours, depth too, repaired, Muon", "repaired", WITH_DEPTH, BY_RECIPE, repaired=True),
    Row("ours, depth too, repaired, Muon, half the steps", "repaired", WITH_DEPTH, BY_RECIPE,
        share=0.5, repaired=True),
    Row(f"{STOCK} + finetuning", "stock", None),
    Row("magnitude + finetuning", "magnitude", ranked("magnitude", "uniform")),
    Row("random + finetuning", "random", ranked("random", "uniform")),
    Row(SCRATCH, "ours", OUR_PRUNING),
    Row("ours + finetuning", "ours", OUR_PRUNING),
    Row("ours, no feature loss", "ours", OUR_PRUNING, {}),
    Row("reference + finetuning, lr 3e-4", "reference", ranked("reference", "uniform"),
        {**PLAIN, "learning_rate": 3e-4}),
]  # fmt: skip
