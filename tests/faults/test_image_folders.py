"""Which folders are classes and which files are images; told before anything is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.pipelines import save_ddpm, save_image
from support.runs import compile_quickly, refusal

from diffc.data.image_folders import class_folders, image_files
from diffc.data.images import read_images
from diffc.errors import InputError
from diffc.stages.data import data_digest
from diffc.stages.samples import _existing

SHAPE = (1, 16, 16)


def fill(folder: Path, grey: int, n: int = 4) -> None:
    for i in range(n):
        save_image(folder / f"{i}.png", grey + i)


def two_classes(folder: Path) -> Path:
    fill(folder / "a", 10)
    fill(folder / "b", 200)
    return folder


def labels(folder: Path, classes: int) -> set[tuple[int, bool]]:
    """(label, whether the image is bright) of every image."""
    clean, _ = read_images(folder, SHAPE, classes=classes)
    bright = (clean.sample.mean(dim=(1, 2, 3)) > 0).tolist()
    return set(zip(clean.conditions["class_labels"].tolist(), bright, strict=True))


RIGHT = {(0, False), (1, True)}
LEFTOVERS = [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", ".git", "$RECYCLE.BIN"]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_of_systems_and_editors_are_no_class(tmp_path, name):
    data = two_classes(tmp_path / "d")
    save_image(data / name / "1-checkpoint.png", 11)
    assert labels(data, 2) == RIGHT


def test_hidden_and_system_files_are_no_images(tmp_path):
    data = two_classes(tmp_path / "d")
    (data / "a" / "._0.png").write_bytes(b"a resource fork")
    (data / "Thumbs.db").write_bytes(b"x")
    (data / "b" / ".hidden").mkdir()
    fill(data / "b" / ".hidden", 5)
    clean, counts = read_images(data, SHAPE, classes=2)
    assert (len(clean), counts.skipped) == (8, 0)


def test_a_linked_folder_is_a_class(tmp_path):
    fill(tmp_path / "real_a", 10)
    fill(tmp_path / "data" / "b", 200)
    (tmp_path / "data" / "a").symlink_to("../real_a")
    assert labels(tmp_path / "data", 2) == RIGHT


def test_linked_folders_hold_images_without_classes_too(tmp_path):
    fill(tmp_path / "real_a", 10)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a").symlink_to("../real_a")
    assert len(read_images(tmp_path / "all", SHAPE)[0]) == 4


def test_a_circle_of_links_ends(tmp_path):
    fill(tmp_path / "d" / "a", 10)
    (tmp_path / "d" / "a" / "up").symlink_to("..")
    (tmp_path / "d" / "again").symlink_to("a")
    assert len(image_files(tmp_path / "d")) == 8  # "a", and the same folder as "again"


def test_a_dangling_link_is_nothing(tmp_path):
    data = two_classes(tmp_path / "d")
    (data / "a" / "gone.png").symlink_to("nowhere.png")
    (data / "c").symlink_to("nowhere")
    assert labels(data, 2) == RIGHT


def test_an_empty_class_folder_counts(tmp_path):
    data = two_classes(tmp_path / "d")
    (data / "a_empty").mkdir()
    assert labels(data, 3) == {(0, False), (2, True)}


def test_names_that_are_numbers_count_as_numbers(tmp_path):
    fill(tmp_path / "d" / "9", 10)
    fill(tmp_path / "d" / "10", 200)
    assert labels(tmp_path / "d", 2) == RIGHT


def test_one_class_less_is_the_null_class_and_said(tmp_path):
    data = two_classes(tmp_path / "d")
    _, notes = class_folders(data, 3)
    assert notes == (
        "2 class folders, and the model knows 3 classes: 'a' was taken as class 0, 'b' as class 1, "
        'and class 2 as "no class"',
    )


@pytest.mark.parametrize("classes", [1, 4, 1000])
def test_another_number_of_classes_is_refused(tmp_path, classes):
    data = two_classes(tmp_path / "d")
    with pytest.raises(InputError, match=f"2 class folders; the model knows {classes} classes"):
        class_folders(data, classes)


def test_train_and_val_are_no_classes(tmp_path):
    for split in ("train", "val"):
        two_classes(tmp_path / "d" / split)
    with pytest.raises(InputError, match="deeper than a class folder") as caught:
        class_folders(tmp_path / "d", 2)
    assert str(tmp_path / "d" / "train") in str(caught.value.hint)


def test_without_classes_images_may_lie_at_any_depth(tmp_path):
    two_classes(tmp_path / "d" / "train")
    save_image(tmp_path / "d" / "top.png", 3)
    assert len(read_images(tmp_path / "d", SHAPE)[0]) == 9


def test_what_is_read_decides_the_key(tmp_path):
    fill(tmp_path / "real_a", 10)
    data = tmp_path / "d"
    fill(data / "b", 200)
    (data / "a").symlink_to("../real_a")
    keys = [data_digest(data)]
    save_image(tmp_path / "real_a" / "0.png", 77)  # behind the link
    keys.append(data_digest(data))
    (data / "0_empty").mkdir()  # moves every label
    keys.append(data_digest(data))
    assert len(set(keys)) == 3
    (data / ".DS_Store").write_bytes(b"x")
    (data / "notes.txt").write_text("no image")
    assert data_digest(data) == keys[-1]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    return save_ddpm(tmp_path_factory.mktemp("models") / "c", num_class_embeds=3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return save_ddpm(tmp_path_factory.mktemp("models") / "u")


def test_wrong_folders_are_refused_before_the_first_stage(conditional, tmp_path):
    fill(tmp_path / "d" / "only", 10)
    error = refusal(conditional, tmp_path / "o", data={"source": str(tmp_path / "d")})
    assert "1 class folders; the model knows 3" in str(error)
    save_image(tmp_path / "d" / "x.png", 1)
    error = refusal(conditional, tmp_path / "o", data={"source": str(tmp_path / "d")})
    assert "outside of class folders" in str(error)
    assert not (tmp_path / "o").exists()


def test_a_wrong_source_names_its_flag(plain, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    (tmp_path / "bad.safetensors").write_bytes(b"no header")
    wrong = {
        "nothing": "there is nothing at",
        "empty": "no images in",
        "x.txt": "neither a folder nor an .npz",
        "bad.npz": "is not an .npz of arrays",
        "other.npz": "holds weights, and no array of images",
    }
    for name, words in wrong.items():
        for section, key, flag in (
            ("data", "source", "--data"),
            ("quality", "reference", "--reference"),
        ):
            error = refusal(plain, tmp_path / "o", **{section: {key: str(tmp_path / name)}})
            assert str(error).startswith(f"{flag}: ") and words in str(error)
    refusal(plain, tmp_path / "o", data={"source": str(tmp_path / "bad.safetensors")})
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_notes_and_the_labels_reach_the_run(conditional, tmp_path):
    data = two_classes(tmp_path / "d")
    save_image(data / ".ipynb_checkpoints" / "1-checkpoint.png", 11)
    compile_quickly(conditional, tmp_path / "o", "plan", data={"source": str(data)})
    from safetensors.torch import load_file

    clean = load_file(tmp_path / "o/.diffc/clean.safetensors")
    bright = (clean["sample"].mean(dim=(1, 2, 3)) > 0).tolist()
    assert set(zip(clean["class_labels"].tolist(), bright, strict=True)) == RIGHT
    assert '"no class' in (tmp_path / "o/.diffc/data.json").read_text().replace("\\", "")


def test_reference_images_are_known_by_what_is_read_of_them(tmp_path):
    """Samples of an hour are not made again since a system has left a file of its own."""
    folder = tmp_path / "reference"
    fill(folder, 10)
    keys = [_existing(str(folder), "--reference").keyed()]
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("of last year")
    keys.append(_existing(str(folder), "--reference").keyed())
    save_image(folder / "0.png", 99)
    keys.append(_existing(str(folder), "--reference").keyed())
    assert keys[0] == keys[1] != keys[2]
