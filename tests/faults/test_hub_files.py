"""Of a repository on the hub, the files that a run uses are fetched, and no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import save_file

from diffc.cli.app import app
from diffc.errors import InputError, RequestError
from diffc.models.source import find_source

STEM = "diffusion_pytorch_model"
LARGE = (".safetensors", ".bin", ".ckpt")


class Hub:
    """A repository in a folder; ``fetched`` are the files that were asked for, pickles aside."""

    def __init__(self, repo: Path, snapshot: Path) -> None:
        self.repo, self.snapshot = repo, snapshot

    def download(self, repo, revision=None, allow_patterns=None, dry_run=False):
        names = [str(p.relative_to(self.repo)) for p in self.repo.rglob("*") if p.is_file()]
        wanted = list(filter_repo_objects(names, allow_patterns=allow_patterns))
        if dry_run:
            return [self.listed(name) for name in wanted]
        for name in wanted:
            (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repo / name, self.snapshot / name)
        return str(self.snapshot)

    def listed(self, name):
        here, size = (self.snapshot / name).exists(), (self.repo / name).stat().st_size
        return SimpleNamespace(filename=name, file_size=size, is_cached=here)

    @property
    def weights(self) -> set[str]:
        files = (p for p in self.snapshot.rglob("*") if p.is_file())
        return {str(p.relative_to(self.snapshot)) for p in files if p.suffix in LARGE}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "repo", tmp_path / "snapshot")
    made.repo.mkdir()
    made.snapshot.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    return made


def save(path: Path, value=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if value is None:
        header = json.dumps({}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    else:
        path.write_text(json.dumps(value))


def save_repo(repo: Path, weights: list[str], flat: bool = False) -> None:
    """The files of a Stable Diffusion repository, with empty weights."""
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    if flat:
        parts = {"unet": parts["unet"]}
    save(repo / "model_index.json", {"_class_name": "StableDiffusionPipeline", **parts})
    for name, (_, class_name) in parts.items():
        place = repo if flat else repo / name
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        if name != "tokenizer":
            save(place / file, {"_class_name": class_name})
    if not flat:
        save(repo / "tokenizer" / "vocab.json", {})
        save(repo / "tokenizer" / "merges.txt", {})
    for name in weights:
        save(repo / name)


PLAIN = [f"unet/{STEM}.safetensors", f"vae/{STEM}.safetensors", "text_encoder/model.safetensors"]
OTHERS = [
    "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", f"unet/{STEM}.fp16.safetensors",
    f"unet/{STEM}.non_ema.safetensors", f"unet/{STEM}.bin", f"vae_1_0/{STEM}.safetensors",
    "safety_checker/model.safetensors", "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
]  # fmt: skip


def test_one_variant_of_what_a_run_uses(hub):
    save_repo(hub.repo, [*PLAIN, *OTHERS])
    find_source("owner/name")
    assert hub.weights == set(PLAIN)
    assert (hub.snapshot / "tokenizer" / "merges.txt").exists()


def test_every_component_where_the_whole_pipeline_is_wanted(hub):
    save_repo(hub.repo, [*PLAIN, *OTHERS])
    find_source("owner/name", whole=True)
    assert hub.weights == {*PLAIN, "safety_checker/model.safetensors"}


def test_no_weights_for_planning(hub):
    save_repo(hub.repo, [*PLAIN, *OTHERS])
    find_source("owner/name", need_weights=False)
    assert hub.weights == set()


def test_variants_where_there_are_no_plain_weights(hub):
    fp16 = [name.replace(".safetensors", ".fp16.safetensors") for name in PLAIN]
    save_repo(hub.repo, [*fp16, *OTHERS])
    find_source("owner/name")
    assert hub.weights == set(fp16)


def test_shards_are_fetched_with_their_index(hub):
    shards = [f"unet/{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_repo(hub.repo, [*PLAIN[1:], *shards])
    names = {str(i): Path(shard).name for i, shard in enumerate(shards)}
    for name, shard in names.items():
        save_file({name: np.zeros(1, np.float32)}, hub.repo / "unet" / shard)
    save(hub.repo / "unet" / f"{STEM}.safetensors.index.json", {"weight_map": names})
    assert len(find_source("owner/name").weights) == 2
    assert hub.weights == {*PLAIN[1:], *shards}


@pytest.mark.parametrize(
    "name",
    [
        f"{STEM}-00001-of-00001.fp16.safetensors",  # as diffusers named a variant's shards before
        f"{STEM}-00001-of-00001.safetensors",  # without an index nothing reads them
        f"older/{STEM}.safetensors",
    ],
)
def test_what_lies_beside_the_weights_that_are_read_stays_there(hub, name):
    save_repo(hub.repo, [*PLAIN, f"unet/{name}"])
    find_source("owner/name")
    assert hub.weights == set(PLAIN)


def test_shards_of_another_variant_stay_there(hub):
    shards = [f"unet/{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    others = [name.replace(".safe", ".fp16.safe") for name in shards]
    save_repo(hub.repo, [*PLAIN[1:], *shards, *others])
    find_source("owner/name")
    assert hub.weights == {*PLAIN[1:], *shards}


def test_of_unknown_variants_the_one_that_is_read(hub):
    ema, other = (f"unet/{STEM}.{variant}.safetensors" for variant in ("ema", "non_ema"))
    save_repo(hub.repo, [*PLAIN[1:], ema, other])
    assert [path.name for path in find_source("owner/name").weights] == [Path(ema).name]
    assert hub.weights == {*PLAIN[1:], ema}


def test_a_further_denoiser_is_fetched_too(hub):
    """Without Wan 2.2's second transformer the compressed pipeline could not run."""
    kind, names = "WanTransformer3DModel", ("transformer", "transformer_2")
    index = {name: ["diffusers", kind] for name in names}
    save(hub.repo / "model_index.json", {"_class_name": "WanPipeline", **index})
    weights = [f"{name}/{STEM}.safetensors" for name in names]
    for name in names:
        save(hub.repo / name / "config.json", {"_class_name": kind})
    for name in weights:
        save(hub.repo / name)
    find_source("owner/name")
    assert hub.weights == set(weights)


def test_a_flat_repository(hub):
    save_repo(hub.repo, [f"{STEM}.safetensors", f"{STEM}.bin"], flat=True)
    save(hub.repo / "scheduler_config.json", {"_class_name": "DDPMScheduler"})
    source = find_source("owner/name")
    assert hub.weights == {f"{STEM}.safetensors"} and source.scheduler


def test_a_lone_component(hub):
    save(hub.repo / "config.json", {"_class_name": "UNet2DModel"})
    save(hub.repo / f"{STEM}.safetensors")
    assert len(find_source("owner/name").weights) == 1


def test_pickles_are_fetched_under_the_flag_alone(hub):
    pickles = [f"unet/{STEM}.bin", f"vae/{STEM}.bin", "text_encoder/pytorch_model.bin"]
    save_repo(hub.repo, pickles)
    with pytest.raises(InputError, match="only pickled weights") as caught:
        find_source("owner/name")
    assert "--allow-pickle" in caught.value.hint and hub.weights == set()
    assert [path.name for path in find_source("owner/name", allow_pickle=True).weights] == [
        f"{STEM}.bin"
    ]
    assert hub.weights == set(pickles)


def test_pickles_that_another_program_fetched_are_no_reason_to_read_them(hub):
    pickle = f"unet/{STEM}.bin"
    save_repo(hub.repo, [*PLAIN, pickle])
    save(hub.snapshot / pickle)
    assert [path.suffix for path in find_source("owner/name").weights] == [".safetensors"]
    assert hub.weights == {*PLAIN, pickle}


def test_a_link_without_its_file_is_fetched_again(hub, tmp_path):
    save_repo(hub.repo, PLAIN)
    link = hub.snapshot / PLAIN[0]
    link.parent.mkdir()
    link.symlink_to(tmp_path / "removed")
    assert find_source("owner/name").weights == (link,)
    assert hub.weights == set(PLAIN)


def test_safetensors_come_before_pickles_under_the_flag(hub):
    save_repo(hub.repo, [*PLAIN, f"unet/{STEM}.bin", "text_encoder/pytorch_model.bin"])
    find_source("owner/name", allow_pickle=True)
    assert hub.weights == set(PLAIN)


def fetch(*arguments):
    app(args=["fetch", *arguments], prog_name="diffc", standalone_mode=False)


def test_fetch_shows_sizes_before_it_downloads(hub, capsys):
    save_repo(hub.repo, [*PLAIN, *OTHERS])
    (hub.repo / PLAIN[0]).write_bytes((hub.repo / PLAIN[0]).read_bytes() + bytes(2_000_000))
    fetch("owner/name", "--dry-run")
    shown = capsys.readouterr()
    assert hub.weights == set() and shown.err == ""
    assert [line.split()[0] for line in shown.out.splitlines()[1:-1]] == PLAIN
    assert "to download: 3 of 3 files, 2 MB" in shown.out
    fetch("owner/name", "--dry-run", "--whole", "--json")
    files = json.loads(capsys.readouterr().out)["files"]
    assert {file["name"] for file in files} == {*PLAIN, "safety_checker/model.safetensors"}
    fetch("owner/name")
    shown = capsys.readouterr()
    assert hub.weights == set(PLAIN) and shown.out == f"{hub.snapshot}\n"
    assert "3 of 3 files" in shown.err
    fetch("owner/name", "--dry-run")
    assert "are here" in capsys.readouterr().out


def test_fetch_says_what_an_interrupted_download_left(hub, capsys):
    save_repo(hub.repo, PLAIN)
    shutil.copytree(hub.repo / "unet", hub.snapshot / "unet")
    fetch("owner/name", "--dry-run")
    assert "to download: 2 of 2 files" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["demo", "./folder", "nothing", "a/b/c"])
def test_fetch_of_what_is_no_hub_id(hub, model):
    with pytest.raises(RequestError, match="no hub id"):
        fetch(model)


def test_fetch_of_pickles(hub):
    save_repo(hub.repo, [f"unet/{STEM}.bin"])
    with pytest.raises(InputError, match="only pickled weights"):
        fetch("owner/name", "--dry-run")
