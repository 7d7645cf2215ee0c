"""A recorded report, an output folder with samples around it, and the same made hostile."""

import json
from pathlib import Path

import pytest
from PIL import Image

from diffc.report.model import Report

SAMPLE = Path(__file__).parent / "sample.json"
ATTACK = "\"'></title><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"


def hostile(value):
    """Every string becomes an attack; numbers stay."""
    if isinstance(value, dict):
        return {key: hostile(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return value + ATTACK if isinstance(value, str) else value


@pytest.fixture
def content():
    return json.loads(SAMPLE.read_text())


@pytest.fixture
def report(content):
    return Report.model_validate(content)


@pytest.fixture
def hostile_report(content):
    bad = hostile(content)
    # keys are a user's too where the report keeps what it was given
    bad["environment"]["packages"] = {ATTACK: ATTACK}
    return Report.model_validate(bad)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "OUT"
    (folder / "samples").mkdir(parents=True)
    for name, colour in (("dense", (200, 30, 30)), ("compressed", (30, 30, 200))):
        Image.new("RGB", (400, 100), colour).save(folder / "samples" / f"{name}.png")
    (folder / "report.json").write_text(SAMPLE.read_text())
    return folder
