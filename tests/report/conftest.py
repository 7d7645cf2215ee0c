"""A recorded report, an output folder with samples around it, and the same made hostile."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.attacks import ATTACK, hostile

from diffc.report.model import Report

SAMPLE = Path(__file__).parent / "sample.json"


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
