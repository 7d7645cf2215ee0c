"""Reports of any diffc stay readable: what stages found out is kept as it is."""

import json
import warnings
from pathlib import Path

import jsonschema
import pytest

import diffc
from diffc import stage_outcomes
from diffc.report import records
from diffc.report.collect import _weight_files
from diffc.report.model import Report

ROOT = Path(__file__).parents[2]
REPORTS = [
    ROOT / "tests/report/sample.json",
    ROOT / "tests/report/older.json",
    ROOT / "bench/results/demo-run.json",
]
RECORDS = ("plan", "data", "distillation", "quality", "environment")


def test_weights_on_disk_are_the_denoisers_of_one_variant(tmp_path):
    """Beside it lie a VAE's, and the same weights in another precision."""
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir()
        for variant in ("", ".fp16", ".non_ema"):
            (tmp_path / name / f"diffusion_pytorch_model{variant}.safetensors").touch()
    (path,) = _weight_files(tmp_path, "UNet2DConditionModel")
    assert path == tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    (path,) = _weight_files(tmp_path / "unet", "UNet2DConditionModel")
    assert path.name == "diffusion_pytorch_model.safetensors"
    assert _weight_files(tmp_path / "gone", "UNet2DConditionModel") == []
    assert _weight_files(tmp_path, "OfAPackageThatIsNotHere") == []


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_older_reports_are_read_whole_and_follow_the_schema(path):
    content = json.loads(path.read_text())
    schema = json.loads((Path(diffc.__file__).parent / "report/report.schema.json").read_text())
    jsonschema.validate(content, schema)
    written = json.loads(Report.read(path).model_dump_json())
    assert {name: written[name] for name in RECORDS} == {
        name: content.get(name) for name in RECORDS
    }


def test_the_schema_is_the_models():
    """A field that is typed anew stands in report.schema.json too."""
    schema = json.loads((Path(diffc.__file__).parent / "report/report.schema.json").read_text())
    assert schema == Report.model_json_schema()
    assert "losses" in schema["$defs"]["DistillRecord"]["properties"]


def test_fields_that_this_diffc_does_not_know_stay(content):
    for name in RECORDS:
        content[name] = {"a_field_of_tomorrow": [1, {"b": None}]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = json.loads(Report.model_validate(content).model_dump_json())
    assert {name: written[name] for name in RECORDS} == {name: content[name] for name in RECORDS}


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (records.DataRecord, stage_outcomes.DataOutcome),
        (records.RepairRecord, stage_outcomes.RepairOutcome),
        (records.RepairedLayerRecord, stage_outcomes.RepairedLayerFigures),
        (records.RepairErrors, stage_outcomes.NetworkErrors),
        (records.BlockLocalRecord, stage_outcomes.BlockLocalOutcome),
        (records.LocalBlockRecord, stage_outcomes.LocalBlockFigures),
        (records.DistillRecord, stage_outcomes.DistillOutcome),
        (records.LoopDistillRecord, stage_outcomes.LoopDistillOutcome),
        (records.QualityCurvePoint, stage_outcomes.QualityPoint),
    ],
)
def test_what_a_report_reads_a_stage_writes(record, outcome):
    """A field that is renamed in one of the two is renamed in the other."""
    assert set(record.__annotations__) <= set(outcome.model_fields)
