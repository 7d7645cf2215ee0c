"""Output folders made by hand around fake engines, whose times a test knows."""

import copy
import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

from diffc.measure import engines
from diffc.measure.compare import measure_target
from diffc.measure.engines import MeasureOptions
from diffc.measure.environment import read_environment
from diffc.measure.latency import LatencyOptions
from diffc.output import write_lock_of
from diffc.recipe import Recipe
from diffc.report.model import ModelFigures, Report
from diffc_export.events import drain
from diffc_export.targets import fake, target
from diffc_export.targets.base import BuildOptions, Status
from support.onnx_folder import write_handmade_folder

DIGEST = "d" * 64
FAST = ("--no-loop", "--most-seconds", "1")
"""Flags of a check that takes little time."""
PEAK = 50_000_000
"""Bytes of peak memory in place of a measurement."""


def make_engine(
    out, target_name="fake", macs=2_000_000_000, side="compressed", channels=8, others=()
):
    """OUT/onnx/SIDE and OUT/engines/TARGET/SIDE; a fake call takes 1e-12 s per MAC."""
    onnx = write_handmade_folder(out / "onnx" / side, channels, macs=macs, others=others)
    engine = out / "engines" / target_name / side
    drain(target(target_name).build(onnx, BuildOptions(), engine))
    if target_name == "fake":
        _make_reference_of_identity(onnx / "reference.safetensors")
    return engine


def _make_reference_of_identity(path):
    """What a fake engine computes: its sample."""
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith("output")]:
        tensors[name] = tensors[f"{name.removesuffix('output')}input.sample"]
    factors = tensors["trajectory.coefficients"].sum(axis=1)
    tensors["trajectory.final"] = tensors["trajectory.initial"] * factors.prod()
    save_file(tensors, path)


def make_output(out, macs=2_000_000_000, digest=DIGEST, ssim=0.9, others=()):
    """An output folder with one measured fake engine."""
    engine = make_engine(out, macs=macs, others=others)
    model = {"name": "tiny", "folder": str(out), "class_name": "UNet2DModel", "digest": digest}
    write_lock_of(out, model, Recipe(), {})
    figures = ModelFigures(name="tiny", class_name="UNet2DModel", params=1000, macs=macs)
    report = Report(
        diffc="0", created="2026-01-01T00:00:00+00:00", model=figures, compressed=figures,
        targets=_measure_once(engine, (macs, others)),
        quality={"ssim": {"mean": ssim, "ci95": [ssim, ssim], "n": 4}},
        environment=read_environment().model_dump(mode="json"),
    )  # fmt: skip
    (out / "report.json").write_text(report.model_dump_json())
    return out


_MEASURED = {}
"""What was measured of each engine, by what decides its figures."""


def _measure_once(engine, described):
    """Measure ``engine`` as an output folder's; one that was made the same way has its figures.

    A fake call takes the time that its MACs say, so a second measurement would tell nothing new
    and start four processes. A test that patches the calls or the memory has its own figures.
    """
    key = (described, fake.FakeCall.run, fake.Fake.load, engines.measure_memory)
    if key not in _MEASURED:
        timing = MeasureOptions(latency=LatencyOptions(rounds=30, seconds=0.0))
        _MEASURED[key] = drain(measure_target(engine, engine, timing))
    return copy.deepcopy(_MEASURED[key])


def edit(path: Path, change):
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def figures_of(text):
    """The figures of a check's JSON, by name."""
    return {f["name"]: f for f in json.loads(text)["figures"]}


def add_target(out: Path, name: str) -> Path:
    """A second target's engine in OUT and in its report, output from the fake one's."""
    folder = out / "engines" / name / "compressed"
    shutil.copytree(out / "engines" / "fake" / "compressed", folder)
    edit(folder / "engine.json", lambda content: content.update(target=name))

    def both(report):
        report["targets"].append({**report["targets"][0], "target": name})

    edit(out / "report.json", both)
    return folder


def forbid_running(monkeypatch, name):
    """Let a target say that it cannot run here."""
    status = Status(True, True, False, "no GPU here")
    monkeypatch.setattr(type(target(name)), "status", lambda self: status)


def change_engine(out: Path, **changes):
    """The candidate's engine as if it had been built otherwise."""
    folder = out / "engines/fake/compressed"
    edit(folder / "engine.json", lambda content: content.update(**changes))


def profiles_of(*spans):
    """Profiles of the fake engine at these (least, most) batch sizes."""
    names = {"sample": (1, 8, 8), "timestep": ()}
    return [
        {name: {"min": (low, *rest), "opt": (low, *rest), "max": (high, *rest)}
         for name, rest in names.items()}
        for low, high in spans
    ]  # fmt: skip
