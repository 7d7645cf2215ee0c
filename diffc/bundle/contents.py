"""The engines that go into a bundle, and the facts about them.

engine.json in a bundle keeps the facts that decide whether the engine fits a machine, and those
that the pipeline needs; of the machine that built it, it names only what the engine is tied to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffc.bundle.folder import copy_file
from diffc.errors import DiffcError, InputError, RequestError, unknown
from diffc.follows import check_engine
from diffc.judged import find_loop
from diffc.models.families import component_of, family
from diffc.models.files import read_json
from diffc.models.noise_levels import flow_levels
from diffc.output import SIDES
from diffc_export.targets.engine import NAME, exported_file, read_info
from diffc_runtime.engine_folder import (
    ENCODER_FOLDER,
    LORA_FOLDER,
    LORA_SUFFIX,
    MASKED_DECODER_FOLDER,
    check_files,
)
from diffc_runtime.json_types import JsonDict, JsonObject
from diffc_runtime.loop import Loop
from diffc_runtime.prompt_plan import PLAN_FILE, TEXT_FOLDER

_SOURCE_KEYS = (
    "class_name",
    "inputs",
    "output",
    "precision",
    "opset",
    "sha256",
    "made_from",
    "prediction",
    "scheduler",
    "unconditional",
    "scaling_factor",
    "shift_factor",
    "posterior",
    "parameters",
    "macs",
    "parts",
)
_DETAILS = ("settings",)  # what an OpenVINO engine was measured with, and is loaded with


@dataclass(frozen=True)
class BundleContents:
    """The engines of one model.

    Attributes:
        engine: The denoiser's engine folder.
        info: That folder's engine.json, as the bundle has it.
        gpu_engines: Engine folders of the same model for other GPUs.
        decoder: The VAE decoder's engine folder, or None.
        vae_encoder: The VAE encoder's, or None.
        masked_decoder: That of the VAE's decoder with image and mask, or None.
        texts: The text encoders' engine folders by name; empty where prompts stay with the caller.
        text: The folder of the plan and the tokenizers, or None.
        loop: What the report's pictures were made with, and a request that says nothing; None for
            an engine that is in no output folder.
        nulls: Condition -> the family's value for "none", such as the label that means "no class".
        values: Condition -> how many whole numbers it may be, from 0 on.
    """

    engine: Path
    info: JsonObject
    gpu_engines: tuple[Path, ...] = ()
    decoder: Path | None = None
    loop: Loop | None = None
    texts: Mapping[str, Path] = field(default_factory=dict)
    text: Path | None = None
    vae_encoder: Path | None = None
    masked_decoder: Path | None = None
    nulls: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def loras(self) -> Path:
        """The folder of the LoRAs that were adapted to the engine; it may be missing."""
        return loras_folder(self.engine)

    @property
    def target(self) -> str:
        """The target that the engine was built for."""
        return str(self.info["target"])

    @property
    def decoder_info(self) -> JsonDict | None:
        """The decoder's engine.json, as the bundle has it; None without a decoder."""
        return public_info(self.decoder) if self.decoder else None

    def folders(self) -> Iterator[tuple[str, Path]]:
        """Yield (folder's name in a bundle, engine folder): the denoiser's, then the VAE's."""
        yield "engine", self.engine
        yield from ((f"engine-{i}", plan) for i, plan in enumerate(self.gpu_engines, 1))
        if self.decoder:
            yield "decoder", self.decoder
        if self.decoder and self.vae_encoder:
            yield ENCODER_FOLDER, self.vae_encoder
        if self.decoder and self.masked_decoder:
            yield MASKED_DECODER_FOLDER, self.masked_decoder

    @property
    def scheduler(self) -> JsonDict:
        """The scheduler's config, with the additions of the model's own pipeline."""
        config = self.info["source"]["scheduler"]
        sample = next(item for item in self.info["inputs"] if item["kind"] == "sample")
        return {**config, **flow_levels(config, sample["shape"])}

    @property
    def sampler(self) -> tuple[str, str | None]:
        """The runtime's sampler for the model, and why it differs from the scheduler's, or None.

        Raises:
            InputError: The runtime has no sampler that fits.
        """
        return find_sampler(self.scheduler, self.info["inputs"])

    def notes(self) -> list[str]:
        """Return what people who serve the model should know first, one line each."""
        name, reason = self.sampler
        return [f"sampled with '{name}': {reason}"] if reason else []

    def settings(self) -> JsonDict:
        """Return the content of pipeline.json."""
        return {
            "format": 1,
            "scheduler": self.scheduler,
            "sampler": self.sampler[0],
            "unconditional": {**self.nulls, **(self.info["source"].get("unconditional") or {})}
            or None,
            "values": dict(self.values) or None,
            "latent": self._latent(),
        }

    def served_settings(self) -> JsonDict:
        """Return ``settings`` with the loop as the default of requests; others are still taken.

        A sampler that does not fit the engine is left out, and so is guidance where the engine does
        not bring the values for "none". The loop's spacing is the one of every request.
        """
        settings, loop = self.settings(), self.loop
        if loop is None:
            return settings
        conditions = {spec["name"] for spec in self.info["inputs"] if spec["kind"] == "condition"}
        has_none = conditions and conditions <= set(settings["unconditional"] or {})
        usual = {"steps": loop.steps, "guidance": (loop.guidance or 1.0) if has_none else 1.0}
        return {
            **settings,
            "scheduler": dict(loop.config(settings["scheduler"])),
            "sampler": loop.sampler if self._takes(loop) else settings["sampler"],
            "defaults": usual,
        }

    def _takes(self, loop: Loop) -> bool:
        """Return True if the runtime has the loop's sampler for this model."""
        from diffc_runtime.errors import BadRequest

        try:
            loop.trajectory(self.scheduler)
        except BadRequest:
            return False
        return True

    def decoder_request(self) -> JsonDict | None:
        """Return how a client calls the decoder on a server; None without a decoder."""
        from diffc_runtime.engines import batches

        info = self.decoder_info
        if info is None:
            return None
        latent, sample = info["inputs"][0], info["outputs"][0]
        return {
            "input": latent["name"],
            "output": sample["name"],
            "dtype": latent["dtype"],
            "shape": list(latent["shape"]),
            "batches": [list(both) for both in batches(info)],
        }

    def _latent(self) -> dict[str, float | list[float]] | None:
        info = self.decoder_info
        if info is None:
            return None
        scale, shift = info["source"].get("scaling_factor"), info["source"].get("shift_factor")
        if scale is None:
            raise InputError(f"{self.decoder}: its model.json gives no scaling_factor")
        return {"scale": scale, "shift": shift or 0.0}


def loras_folder(engine: Path) -> Path:
    """Return where the LoRAs of an engine folder of OUT lie: OUT/engines/TARGET/loras/SIDE."""
    return engine.parent / LORA_FOLDER / engine.name


def find_sampler(scheduler: JsonObject, inputs: Sequence[JsonObject]) -> tuple[str, str | None]:
    """Return ``BundleContents.sampler`` for a scheduler's config and a denoiser's inputs.

    Args:
        scheduler: The scheduler's config.
        inputs: The denoiser's inputs, as engine.json lists them.

    Raises:
        InputError: The runtime has no sampler that fits.
    """
    from diffc_runtime.errors import BadRequest
    from diffc_runtime.schedulers import NAMES, substitute

    dtype = next(item["dtype"] for item in inputs if item["kind"] == "timestep")
    try:
        return substitute(scheduler, whole=dtype.startswith(("int", "uint")))
    except BadRequest as error:
        hint = f"the runtime samples with {', '.join(NAMES)}; export from a pipeline with one"
        raise InputError(f"this model cannot be served: {error}", hint=hint) from None


def find_contents(
    out: Path, target: str | None, side: str, gpu_engines: Sequence[Path] = ()
) -> BundleContents:
    """Return the engines to bundle.

    Args:
        out: An output folder, or an engine folder.
        target: One of the output folder's targets; None if there is one.
        side: ``dense`` or ``compressed``.
        gpu_engines: Engine folders of the same model for other GPUs.

    Raises:
        RequestError: As in ``write_bundle``.
        InputError: As in ``write_bundle``.
    """
    engine = out if (out / NAME).is_file() else _find_engine(out, target, side)
    info = public_info(engine)
    if target is not None and info["target"] != target:
        raise RequestError(f"{engine} is an engine for '{info['target']}', not '{target}'")
    check_servable(info["target"])
    check_engine(engine)
    if not info["source"].get("scheduler"):
        hint = "export the model again, from a pipeline folder"
        raise InputError(f"{engine}: its model came without a scheduler's config", hint=hint)
    _check_gpu_engines(engine, info, gpu_engines)
    decoder, encoder, masked_decoder = (
        _own_engine(engine.parent / name)
        for name in ("decoder", ENCODER_FOLDER, MASKED_DECODER_FOLDER)
    )
    loop = None if engine == out else find_loop(out, side, info["source"]["scheduler"])
    nulls, values = ({}, {}) if engine == out else _family_facts(out, info)
    contents = BundleContents(
        engine,
        info,
        tuple(gpu_engines),
        decoder,
        loop,
        vae_encoder=encoder,
        masked_decoder=masked_decoder,
        nulls=nulls,
        values=values,
    )
    return contents if engine == out else _with_texts(contents, out)


def _family_facts(out: Path, info: JsonObject) -> tuple[dict[str, int], dict[str, int]]:
    """``nulls`` and ``values`` of the engine's conditions; empty where OUT/model is not here."""
    name = str(info["source"].get("class_name"))
    try:
        config = read_json(out / "model" / component_of(name) / "config.json")
        nulls = family(name).null_conditions(config)
        values = family(name).condition_values(config)
    except DiffcError:
        return {}, {}
    taken = {spec["name"] for spec in info["inputs"]}
    return _only(taken, nulls), _only(taken, values)


def _only(taken: set[str], values: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in values.items() if name in taken}


def _with_texts(contents: BundleContents, out: Path) -> BundleContents:
    """The contents with the text encoders of OUT; without any where one of them has no engine."""
    text = out / "onnx" / TEXT_FOLDER
    if not (text / PLAN_FILE).is_file():
        return contents
    from diffc_runtime.prompts import read_plan

    engines = {name: contents.engine.parent / name for name in read_plan(text).encoders}
    if not all((engine / NAME).is_file() for engine in engines.values()):
        return contents
    for engine in engines.values():
        check_engine(engine)
    return replace(contents, texts=engines, text=text)


def check_servable(name: str) -> None:
    """Refuse a target whose engines the serving runtime does not run.

    Raises:
        RequestError: The target has no loader in the runtime.
    """
    from diffc_export.targets import target, targets

    if target(name).facts.loader is None:
        served = [other for other, one in targets().items() if one.facts.loader is not None]
        hint = f"bundles run engines for {', '.join(served)}"
        raise RequestError(f"an engine for '{name}' cannot be bundled", hint=hint)


def _own_engine(folder: Path) -> Path | None:
    """The engine folder, once it is checked; None if there is none."""
    if not (folder / NAME).is_file():
        return None
    check_engine(folder)
    return folder


def _find_engine(out: Path, target: str | None, side: str) -> Path:
    if side not in SIDES:
        raise unknown("side", side, SIDES)
    engines = out / "engines"
    built = sorted(p.name for p in engines.iterdir() if p.is_dir()) if engines.is_dir() else []
    if not built:
        hint = "`diffc build` makes engines, `diffc compile` the whole chain"
        raise InputError(f"{out} holds no engines", hint=hint)
    if target is None and len(built) > 1:
        raise RequestError(f"{out} holds engines for {', '.join(built)}", hint="name one: --target")
    chosen = target or built[0]
    if chosen not in built:
        raise unknown("target", chosen, built)
    folder = engines / chosen / side
    if not (folder / NAME).is_file():
        there = [s for s in SIDES if (engines / chosen / s / NAME).is_file()]
        hint = f"there is: {', '.join(there) or 'none'}"
        raise InputError(f"{out} holds no {side} engine for '{chosen}'", hint=hint)
    return folder


def public_info(engine: Path) -> JsonDict:
    """Return engine.json without the facts about the machine that built it, and check the files.

    Raises:
        InputError: The engine folder is damaged.
    """
    info = read_info(engine)
    check_files(engine, info.files)
    content = json.loads(json.dumps(info.to_json()))
    tied = set(info.tied_to)
    content["device"] = {k: v for k, v in content["device"].items() if k in tied}
    content["source"] = {k: v for k, v in content["source"].items() if k in _SOURCE_KEYS}
    scheduler = content["source"].get("scheduler") or {}
    content["source"]["scheduler"] = {
        k: v
        for k, v in scheduler.items()
        if k != "_name_or_path" and not k.startswith("_diffusers")
    }
    details = {key: value for key, value in content["details"].items() if key in _DETAILS}
    return {**content, "threads": None, "details": details}


def _check_gpu_engines(engine: Path, info: JsonObject, gpu_engines: Sequence[Path]) -> None:
    """Check the engines for other GPUs.

    Raises:
        InputError: An engine is another model's.
        RequestError: Two engines are for the same GPUs.
    """
    places = {_gpu_words(info): engine}
    for plan in gpu_engines:
        other = public_info(plan)
        check_engine(plan)
        _check_same_model(info, other, plan)
        where = _gpu_words(other)
        if where in places:
            raise RequestError(
                f"{places[where]} and {plan} are both for {where}: only one would ever be loaded",
                hint="--plan takes engines that were built on, or for, other GPUs",
            )
        places[where] = plan


def _gpu_words(info: JsonObject) -> str:
    """Return the GPUs that an engine is for, in a few words."""
    if info["built_for"]:
        return ", ".join(info["built_for"])
    capability = info["device"].get("compute_capability")
    return f"compute capability {capability}" if capability else "any GPU"


def _check_same_model(info: JsonObject, other: JsonObject, plan: Path) -> None:
    for key in ("target", "inputs", "outputs", "precision_found", "profiles"):
        if info[key] != other[key]:
            difference = f"{key} {_describe_value(other[key])}, not {_describe_value(info[key])}"
            raise InputError(f"{plan} is not an engine of the same model: {difference}")
    ours, theirs = exported_file(info["source"]), exported_file(other["source"])
    if None not in (ours, theirs) and ours != theirs:
        raise InputError(
            f"{plan} is not an engine of the same model: it was built from another ONNX file",
            hint="build every plan from the same OUT/onnx",
        )


def _describe_value(value: object) -> str:
    """Return a value of engine.json as text; of inputs and profiles, their names and shapes."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(" ".join(str(part) for part in item.values()) for item in value) or "none"


def copy_loras(contents: BundleContents, to: Path) -> None:
    """Copy the LoRAs of the engine into a bundle's folder."""
    for file in sorted(contents.loras.glob(f"*{LORA_SUFFIX}")):
        copy_file(file, to / LORA_FOLDER / file.name)


def copy_engine(engine: Path, to: Path) -> None:
    """Copy an engine folder's files, with the engine.json that a bundle has."""
    info = public_info(engine)
    for name in info["files"]:
        copy_file(engine / name, to / name)
    write_info(info, to)


def write_info(info: JsonObject, to: Path) -> None:
    """Write engine.json alone."""
    to.mkdir(parents=True, exist_ok=True)
    (to / NAME).write_text(json.dumps(info, indent=2) + "\n")
