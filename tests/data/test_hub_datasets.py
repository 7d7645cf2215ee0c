"""Hugging Face data sets from disk, against the images they were made of."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffc.data.image_folders import is_dataset
from diffc.data.images import read_images
from diffc.errors import InputError, UnavailableError

SHAPE = (3, 8, 8)


def pictures(n: int = 5, size: int = 8) -> list[Image.Image]:
    random = np.random.default_rng(1)
    return [Image.fromarray(random.integers(0, 255, (size, size, 3), np.uint8)) for _ in range(n)]


def saved(folder: Path, columns: dict, *, split: str | None = None) -> Path:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "img": datasets.Image()}
    features = datasets.Features(
        {name: kinds.get(name, datasets.Value("int64" if name == "label" else "string"))
         for name in columns}
    )  # fmt: skip
    made = datasets.Dataset.from_dict(columns, features=features)
    (datasets.DatasetDict({split: made}) if split else made).save_to_disk(str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("split", [None, "train"])
def test_images_and_labels_come_back(tmp_path: Path, split) -> None:
    images = pictures()
    folder = saved(tmp_path / "set", {"image": images, "label": [4, 3, 2, 1, 0]}, split=split)
    assert is_dataset(folder)
    clean, counts = read_images(folder, SHAPE, classes=5)
    assert counts.used == 5
    for value, label in zip(clean.sample, clean.conditions["class_labels"], strict=True):
        expected = np.asarray(images[4 - int(label)]).transpose(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float32))


def test_labels_that_are_names_count_in_their_order(tmp_path: Path) -> None:
    images = pictures(3)
    folder = saved(tmp_path / "set", {"image": images, "class": ["dog", "cat", "dog"]})
    clean, _ = read_images(folder, SHAPE, classes=2)
    assert sorted(clean.conditions["class_labels"].tolist()) == [0, 1, 1]
    assert "class_labels" not in read_images(folder, SHAPE)[0].conditions


def test_labels_that_are_neither_numbers_nor_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("float64")})
    made = {"image": pictures(2), "label": [0.5, 1.5]}
    datasets.Dataset.from_dict(made, features=features).save_to_disk(str(tmp_path / "set"))
    assert read_images(tmp_path / "set", SHAPE)[1].used == 2  # an unconditional model needs none
    with pytest.raises(InputError, match="neither whole numbers nor names"):
        read_images(tmp_path / "set", SHAPE, classes=2)


def test_other_sizes_are_skipped_and_a_limit_is_kept(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", {"img": pictures(4) + pictures(3, size=9)})
    _, counts = read_images(folder, SHAPE)
    assert (counts.used, counts.skipped_size) == (4, 3)
    assert read_images(folder, SHAPE, limit=2)[1].used == 2


def test_no_images_or_no_training_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"columns text, none of images"):
        read_images(saved(tmp_path / "text", {"text": ["a"]}), SHAPE)
    with pytest.raises(InputError, match=r"splits test, and no 'train'"):
        read_images(saved(tmp_path / "test", {"image": pictures(1)}, split="test"), SHAPE)


def test_a_damaged_set_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", {"image": pictures(1)})
    for path in folder.glob("*.arrow"):
        path.write_bytes(b"no arrow")
    with pytest.raises(InputError, match="cannot be read"):
        read_images(folder, SHAPE)


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnavailableError, match="needs the package 'datasets'") as caught:
        read_images(tmp_path, SHAPE)
    assert caught.value.hint == "pip install 'diffc[data]'"
