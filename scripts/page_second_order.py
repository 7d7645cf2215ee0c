"""The section of docs/results.md on derivatives that a student matches (bench/second_order.py)."""

from __future__ import annotations

from typing import Any

from page_parts import day, machine, percent, table


def second_order(found: dict[str, Any]) -> list[str]:
    """What equal processor time gives with the derivative in the loss, and by blocks alone."""
    settings, training, rows = found["settings"], found["training"], []
    for one in found["rows"]:
        low, high = one["ssim"]["ci95"]
        rows.append([
            _name(one), str(one["steps"]), f"{one['processor_seconds']:.0f}",
            f"{one['ssim']['mean']:.3f} [{low:.3f}, {high:.3f}]", f"{one['held_out_error']:.4f}",
            f"{one['derivative_error']:.4f}",
        ])  # fmt: skip
    heads = ["", "steps", "processor s", "SSIM to the dense model", "held-out error",
             "error of the derivative"]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        f"The demo with {percent(settings['ratio'])} of its MACs cut, repaired, and trained from "
        f"there for {found['seconds']:.0f} s of processor time a row, which "
        f"{settings['budget_steps']} steps of the product's loss take ({training['optimizer']} at "
        f"{training['learning_rate']:g}, batch {training['batch']}, {settings['threads']} thread). "
        "A row with a weight has one more term: the squared error of the output's derivative along "
        "a random direction of the input, by forward-mode differentiation. `block-local` trains "
        "each block alone; its steps are those of each block. "
        f"{settings['images']} images by {settings['loop']}, from the same noise as the dense "
        "model's. Held-out error: of the predicted noise on Fashion-MNIST's test images; dense "
        f"{found['dense_held_out_error']:.4f}. The derivative's is a share of the mean square of "
        "the dense model's, on rows that no training had.\n",
        *table(heads, rows),
    ]


def _name(row: dict[str, Any]) -> str:
    """The row's name, and that its training is not taken where it made the model worse."""
    return row["row"] if row.get("is_used", True) else f"{row['row']} (made it worse: not taken)"
