"""Figures of an older diffc, which name one sampler for both sides."""

from __future__ import annotations

import pytest

from diffc.judged import with_loops

OLD = {"mean": 0.9, "sampler": "DDIM", "steps": 50, "spacing": "leading", "seeds": [0], "n": 4}


@pytest.mark.parametrize(
    ("changed", "loop"),
    [
        ({}, "ddim:50"),
        ({"guidance": 1.0}, "ddim:50"),
        ({"guidance": 7.5}, "ddim:50:7.5"),
        ({"sampler": "FlowMatchEulerDiscrete", "steps": 28, "guidance": 4}, "flow-euler:28:4"),
    ],
)
def test_an_older_figure_has_one_loop_for_both_sides(changed, loop) -> None:
    figure = with_loops(OLD | changed)
    assert figure["loop"] == figure["reference_loop"] == loop
    assert figure["spacing"] == figure["reference_spacing"] == "leading"
    assert figure["mean"] == 0.9 and figure["sampler"] in ("ddim", "flow-euler")


@pytest.mark.parametrize("figure", [{"loop": "ddim:8", "sampler": "ddim", "steps": 8}, {"n": 3}])
def test_other_figures_stay(figure) -> None:
    assert with_loops(figure) is figure
