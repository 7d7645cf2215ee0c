"""docs/how-a-run-goes.md names every stage, and says rightly which of them see the ratio."""

from __future__ import annotations

import json
import re

from support.pages import ROOT

PAGE = (ROOT / "docs" / "how-a-run-goes.md").read_text("utf-8")
ROWS = re.findall(r"^\| (`.*?) \|.*\| (.*?) \|$", PAGE, re.M)


def page_name(stage: str) -> str:
    """build-ort-cpu-dense -> build-TARGET-SIDE."""
    kind, _, rest = stage.partition("-")
    if kind == "build":
        side = "ENCODER" if "text_encoder" in rest else "SIDE"
        return f"build-TARGET-{'decoder' if rest.endswith('decoder') else side}"
    of_target = ("bench", "frontier", "explain", "serve", "choose")
    return f"{kind}-TARGET" if kind in of_target else stage


def test_every_stage_of_a_run_is_in_the_table(compiled):
    records = (compiled[0] / ".diffc").glob("*.json")
    stages = {path.stem for path in records if "key" in json.loads(path.read_text())}
    named = set(re.findall(r"`([\w-]+)`", " ".join(name for name, _ in ROWS)))
    assert len(stages) >= 9
    assert {page_name(stage) for stage in stages} <= named


def test_the_plan_alone_has_the_ratio_in_its_inputs(compiled):
    with_ratio = set()
    for path in (compiled[0] / ".diffc").glob("*.json"):
        record = json.loads(path.read_text())
        if isinstance(record, dict) and '"ratio"' in json.dumps(record.get("inputs", {})):
            with_ratio.add(path.stem)
    assert with_ratio == {"plan"}
    assert [name for name, sees in ROWS if sees == "**yes**"] == ["`plan`"]
