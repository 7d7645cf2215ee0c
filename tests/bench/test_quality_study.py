"""The quality study: stopped anywhere, it goes on to the same; data sets are not mixed."""

import argparse
import json
import sys

import numpy as np
import pytest
import torch

from bench.quality import __main__ as quality
from bench.quality import study as studies
from bench.quality import training
from bench.quality.rows import ROWS
from bench.quality.study import OutOfTime, Study


def arguments(folder, data, **changed) -> argparse.Namespace:
    said = {
        "model": "cifar", "ratio": 0.5, "steps": 4, "batch": 2, "dense_steps": 8,
        "dense_batch": 2, "samples": 4, "curve_samples": 2, "sampling_steps": 2,
        "train_images": 16, "test_images": 8, "classifier_epochs": 1, "passes": 2,
    }  # fmt: skip
    return argparse.Namespace(**{**said, "work": folder, "data": data, "minutes": 60.0, **changed})


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    return write_data(tmp_path / "data.npz", random)


def write_data(path, random):
    sets = {}
    for split in ("train", "test"):
        sets[split] = random.integers(0, 256, (16, 32, 32, 3), np.uint8)
        sets[f"{split}_labels"] = np.arange(16) % 4
    np.savez(path, **sets)
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In the place of CIFAR's network, one that trains in milliseconds."""
    from diffusers import UNet2DModel

    def unet():
        return UNet2DModel(
            sample_size=32, block_out_channels=(32, 64), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip

    monkeypatch.setattr(training, "cifar_unet", unet)


def test_another_data_set_is_refused(tmp_path, data):
    study = Study(arguments(tmp_path / "work", data))
    Study(arguments(tmp_path / "work", data.rename(tmp_path / "moved.npz")))
    other = write_data(tmp_path / "other.npz", np.random.default_rng(1))
    with pytest.raises(SystemExit, match="another study's settings"):
        Study(arguments(tmp_path / "work", other))
    with pytest.raises(SystemExit, match="another study's settings"):
        Study(arguments(tmp_path / "work", tmp_path / "moved.npz", dense_batch=4))
    older = {k: v for k, v in study.settings.items() if k not in ("data", "dense_batch")}
    (tmp_path / "work" / "settings.json").write_text(json.dumps(older))
    Study(arguments(tmp_path / "work", other))  # nobody can tell any more: it goes on


def test_folders_are_told_apart_wherever_they_lie(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "0.jpg").write_bytes(b"12")
    assert studies.fingerprint(tmp_path / "a") == studies.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "train" / "1.jpg").write_bytes(b"1")
    assert studies.fingerprint(tmp_path / "a") != studies.fingerprint(tmp_path / "b")


def weights(folder) -> dict[str, torch.Tensor]:
    from diffc.models.load import load_denoiser
    from diffc.models.source import find_source

    return load_denoiser(find_source(folder)).state_dict()


def steps_on_disk(folder) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.json"))


@pytest.mark.slow
def test_the_clock_acts_between_quarters_and_nothing_is_lost(tmp_path, data, monkeypatch):
    """Time is over after the third of eight steps: the next call goes on from there, to the same
    weights as without a stop."""
    whole = Study(arguments(tmp_path / "whole", data)).dense_folder
    stopped = Study(arguments(tmp_path / "stopped", data))
    ticks = iter(range(100))
    monkeypatch.setattr(stopped, "is_over", lambda: next(ticks) >= 2)
    with pytest.raises(OutOfTime):
        _ = stopped.dense_folder
    done = steps_on_disk(tmp_path / "stopped" / "dense-training")
    assert done and done[-1] % 2 == 1, "a stop between the quarters leaves a checkpoint"
    resumed = Study(arguments(tmp_path / "stopped", data)).dense_folder
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_checkpoint_is_written_when_minutes_have_passed(tmp_path, data, monkeypatch):
    study = Study(arguments(tmp_path / "work", data))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    taken = []
    checkpoint = training.Run.checkpoint
    monkeypatch.setattr(
        training.Run, "checkpoint", lambda run: (taken.append(run.step), checkpoint(run))
    )
    _ = study.dense_folder
    assert taken == list(range(1, 9))


MUON = "ours, depth too, repaired, Muon"


def test_the_recipes_own_optimiser_trains_rows_of_their_own():
    rows = {row.name: row for row in ROWS}
    whole, half = rows[MUON], rows[f"{MUON}, half the steps"]
    for row in (whole, half):
        assert (row.train["optimizer"], row.train["learning_rate"]) == ("muon", 3e-4)
        assert row.cut == rows["ours, depth too, repaired"].cut and row.repaired
    assert (whole.share, half.share) == (1.0, 0.5)


@pytest.mark.slow
def test_some_rows_leave_the_others_of_the_file_as_they_are(tmp_path, data, monkeypatch):
    """Nothing but the dense one is run beside them; what another classifier judged says so."""
    from bench.quality.results import table

    options = arguments(tmp_path / "work", data, out=tmp_path / "quality", rows=[MUON], only=None)
    study = Study(options)
    other = {"parameters": 1, "macs": 1, "frechet": {"value": 2.0, "se": 0.1}}
    how = {**study.settings, "classifier_accuracy": 0.25}
    path = tmp_path / "quality.json"
    path.write_text(json.dumps({"how": how, "rows": {"ours": other}, "complete": False}))
    ran = []
    monkeypatch.setattr(quality, "arguments", lambda: options)
    monkeypatch.setattr(quality, "accuracy", lambda *_: 0.75)
    monkeypatch.setattr(quality, "run_row", lambda _, row: ran.append(row.name) or {**other})
    quality.main()
    results = json.loads(path.read_text())
    assert ran == [MUON] and set(results["rows"]) == {"ours", "dense", MUON}
    assert results["rows"]["ours"] == {**other, "classifier_accuracy": 0.25}
    assert "whose classifier had 25.0 % right: ours." in table(results)
    options.samples = 5
    with pytest.raises(SystemExit, match="samples 4, not 5"):
        quality.earlier(
            Study(argparse.Namespace(**{**vars(options), "work": tmp_path / "b"})), path
        )


@pytest.mark.slow
def test_a_study_stopped_again_and_again_ends_as_one_that_was_not(tmp_path, data, monkeypatch):
    """Through the command line, with the first row of the study."""
    from bench.quality.rows import OURS

    def call(folder, minutes):
        said = arguments(folder / "work", data, minutes=minutes, out=folder / "quality")
        given = [str(part) for name, value in vars(said).items()
                 for part in (f"--{name.replace('_', '-')}", value)]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["quality", *given, "--rows", OURS])
        quality.main()
        path = folder / "quality.json"
        return json.loads(path.read_text()) if path.exists() else {"rows": {}}

    whole = call(tmp_path / "whole", 60)
    checks = Stops(monkeypatch)
    for _ in range(100):
        checks.left = 6
        found = call(tmp_path / "stopped", 60)
        if set(found["rows"]) == set(whole["rows"]):
            break
    assert checks.stops >= 2
    for name, row in whole["rows"].items():
        again = found["rows"][name]
        assert again["frechet"]["value"] == pytest.approx(row["frechet"]["value"]), name
        assert list(again.get("curve", {})) == list(row.get("curve", {})), name
    assert found["date"] and found["how"]["data"] == studies.fingerprint(data)


class Stops:
    """The study's clock: over after ``left`` looks at it."""

    def __init__(self, monkeypatch) -> None:
        self.left, self.stops = 0, 0
        monkeypatch.setattr(Study, "is_over", lambda _: self.look())

    def look(self) -> bool:
        self.left -= 1
        self.stops += self.left == 0
        return self.left <= 0
