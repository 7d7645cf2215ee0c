"""The study's inputs, its folder, and the clock; what is made once is kept on disk."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.quality.judge import Classifier, Judge, fit, read_split
from diffc.data.clean import CleanSet
from diffc.measure.quality.ssim import INTENSITIES
from diffc.models.diffusion import process_from_scheduler
from diffc.models.load import load_denoiser
from diffc.models.source import Source, find_source
from diffc_runtime.files import write_text

KEPT = ("model", "ratio", "steps", "batch", "dense_steps", "dense_batch", "samples",
        "curve_samples", "sampling_steps", "train_images", "test_images",
        "classifier_epochs", "passes")  # fmt: skip
SINCE = ("dense_batch", "data", "passes")  # studies that began before these were kept may go on


class OutOfTime(Exception):
    """The limit given by --minutes has passed; what is done is kept."""


class Study:
    """The inputs, the folder of results, and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.deadline = time.monotonic() + 60 * args.minutes
        self.work.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = {name: getattr(args, name) for name in KEPT}
        self.settings["data"] = fingerprint(args.data)
        self.settings["ssim_on"] = list(INTENSITIES)  # rows of another scale are not to be mixed
        self._same_settings()

    def _same_settings(self) -> None:
        path = self.work / "settings.json"
        if path.exists() and not self.is_mine(json.loads(path.read_text())):
            raise SystemExit(f"{path} holds another study's settings: give another --work")
        write_text(path, json.dumps(self.settings, indent=1))

    def is_mine(self, settings: Mapping) -> bool:
        """Whether what was made with ``settings`` belongs to this study."""
        names = set(self.settings) - {name for name in SINCE if name not in settings}
        return all(settings.get(name) == self.settings[name] for name in names)

    def is_over(self) -> bool:
        """Whether the time given has passed."""
        return time.monotonic() > self.deadline

    def tick(self) -> None:
        """Raise OutOfTime at the end of the time given."""
        if self.is_over():
            raise OutOfTime

    @cached_property
    def train_set(self) -> CleanSet:
        return self._set("train", self.args.train_images)

    @cached_property
    def test_set(self) -> CleanSet:
        return self._set("test", self.args.test_images)

    def _set(self, split: str, limit: int) -> CleanSet:
        path = self.work / f"{split}-{limit}.safetensors"
        if not path.exists():
            part = path.with_suffix(".part")
            read_split(self.args.data, split, limit).save(part)
            part.replace(path)
        return CleanSet.load(path)

    @cached_property
    def images(self) -> CleanSet:
        """The training images without their labels."""
        return CleanSet(self.train_set.sample, {}, self.train_set.origin)

    @cached_property
    def dense_folder(self) -> Path:
        if self.args.model != "cifar":
            return find_source(self.args.model).folder
        folder = self.work / "dense"
        if not (folder / "model_index.json").exists():
            from bench.quality.training import train_dense  # which needs a Study

            train_dense(self, folder)
        return folder

    @cached_property
    def source(self) -> Source:
        return find_source(str(self.dense_folder))

    @cached_property
    def process(self):
        return process_from_scheduler(self.source.scheduler)

    @cached_property
    def judge(self) -> Judge:
        labels = self.train_set.conditions["class_labels"]
        torch.manual_seed(0)
        network = Classifier(self.train_set.sample.shape[1], int(labels.max()) + 1).to(self.device)
        path = self.work / "classifier.safetensors"
        if not path.exists():
            fit(network, self.train_set, self.args.classifier_epochs, self.device, self.tick)
            save_whole(network.state_dict(), path)
        network.load_state_dict(load_file(path))
        network.eval()
        return Judge(network, self.test_set, self.source.scheduler, self.args.sampling_steps,
                     self.device, self.tick)  # fmt: skip

    @cached_property
    def dense_samples(self) -> Tensor:
        path = self.work / "dense-samples.safetensors"
        if not path.exists():
            made = self.judge.samples(load_denoiser(self.source), self.args.samples)
            save_whole({"samples": made}, path)
        return load_file(path)["samples"]


def fingerprint(data: Path) -> str:
    """Tells data sets apart, wherever they lie: a file's hash; of a folder, its names and sizes."""
    digest = hashlib.sha256()
    if data.is_file():
        digest.update(data.read_bytes())
    for path in sorted(data.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(data)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part)
    part.replace(path)
