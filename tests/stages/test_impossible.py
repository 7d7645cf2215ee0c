"""What can never be built is refused before the long work: nothing is made."""

from __future__ import annotations

import pytest

import diffc
from diffc.errors import DiffcError, RequestError, UnavailableError


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        ({"target": ["trt-rtx"], "gpu": ["sm90"]}, RequestError, "sm90"),
        ({"target": ["trt-rtx"], "gpu": ["4090x"]}, RequestError, "4090x"),
        (
            {"target": ["trt-rtx"], "gpu": ["sm75"], "precision": "bf16"},
            UnavailableError, "bf16 from sm",
        ),
        ({"target": ["ort-cpu"], "gpu": ["sm86"]}, RequestError, "--gpu sm86"),
        ({"target": ["ort-cpu"], "threads": 4096}, RequestError, "4096 threads"),
    ],
)  # fmt: skip
def test_an_impossible_request_costs_no_training(tmp_path, build, error, words):
    if "trt-rtx" in build["target"]:
        pytest.importorskip("tensorrt_rtx")
    with pytest.raises(DiffcError) as caught:
        diffc.compile("demo", ratio=0.5, out=tmp_path / "out", options={"build": build})
    assert type(caught.value) is error and words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("training", ["distill", "loop"])
def test_a_missing_tracker_costs_no_training(tmp_path, training):
    named = {"trackers": ["no-such-tracker"]}
    options = {"distill": named if training == "distill" else {"loop": named}}
    with pytest.raises(UnavailableError, match="no tracker 'no-such-tracker'"):
        diffc.compile("demo", ratio=0.5, out=tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
