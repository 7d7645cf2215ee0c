"""Writes OUT/onnx and the rest of the pipeline as a folder that another library opens.

The denoiser and the VAE's two parts are the graphs that OUT/onnx holds and engines are built of, in
fp32. Text encoders are exported by torch (``torch_graphs.py``); a pipeline without a VAE's decoder
in OUT/onnx is refused.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from diffc.bundle.folder import Destination, copy_file
from diffc.errors import InputError, unknown
from diffc.follows import check_onnx
from diffc.layouts.base import Layout
from diffc.layouts.graphs import write_called
from diffc.layouts.known import LAYOUTS
from diffc.models.autoencoders import full_config
from diffc.models.components import INDEX, SCHEDULER_CONFIG, Component
from diffc.models.families import family, family_names
from diffc.models.families.base import PipelineCall
from diffc.models.files import read_json
from diffc.models.source import Source, find_source
from diffc.models.texts import find_kind
from diffc.output import DECODER, SIDES, VAE_ENCODER, onnx_folder, read_lock
from diffc.stages.order import source_of
from diffc.torch_state import own_state
from diffc_export.targets.onnx_file import DESCRIPTION, MODEL
from diffc_runtime.image_sizes import image_shift
from diffc_runtime.json_types import JsonDict, JsonObject
from diffc_runtime.prompt_plan import PLAN_FILE, TEXT_FOLDER, ZEROS

_EXPORTED = f"exported/{MODEL}"
_ENCODER, _DECODER = "vae_encoder", "vae_decoder"
_ENCODER_CALL = PipelineCall({"out_sample": "latent_parameters"})
"""How a pipeline calls a VAE's encoder."""


@dataclass(frozen=True)
class WrittenLayout:
    """A folder that was written.

    Attributes:
        folder: The folder.
        layout: The layout's name.
        readers: The libraries that open it.
        side: ``dense`` or ``compressed``.
        pipeline: The class in its model_index.json.
        usage: A line of Python that opens it.
        files: The files' paths, relative to ``folder``.
    """

    folder: Path
    layout: str
    readers: str
    side: str
    pipeline: str
    usage: str
    files: tuple[str, ...]

    def to_json(self) -> JsonDict:
        """Return the fields as ``diffc export --layout --json`` prints them."""
        return {**asdict(self), "folder": str(self.folder), "files": list(self.files)}


def write_layout(
    out: Path,
    layout: str,
    *,
    side: str = "compressed",
    to: Path | None = None,
    force: bool = False,
) -> WrittenLayout:
    """Write a model of an output folder as other libraries open it.

    Args:
        out: An output folder with OUT/onnx.
        layout: ``optimum`` or ``openvino``.
        side: ``compressed`` or ``dense``.
        to: The folder to write; None: OUT/LAYOUT/SIDE.
        force: True writes into a folder that is not empty. Files that diffc did not make are never
            changed, with or without it.

    Raises:
        RequestError: The layout or side is unknown, or the folder is not empty.
        InputError: OUT/onnx is missing or not of OUT/model, or no reader knows the pipeline.
        UnavailableError: A package that the layout needs is missing.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if side not in SIDES:
        raise unknown("side", side, SIDES)
    read_lock(out)
    chosen, goal = LAYOUTS[layout], Destination(to or out / layout / side)
    goal.check_free(force)
    chosen.check()
    onnx_folder(out, side)
    check_onnx(out)
    source = source_of(out) if side == SIDES[0] else find_source(out / "model")
    writer = PipelineWriter(chosen, source, out, side)
    writer.check()
    goal.path.parent.mkdir(parents=True, exist_ok=True)
    with goal.staging() as new:
        with own_state(needs_torch=True):
            writer.write(new)
        files = goal.move_in(new, {"layout": layout, "side": side})
    usage = chosen.usage(goal.path, writer.pipeline)
    return WrittenLayout(
        goal.path, layout, chosen.readers, side, writer.pipeline, usage, tuple(files)
    )


class PipelineWriter:
    """Writes one pipeline, component by component.

    Args:
        layout: In whose form.
        source: The dense or the compressed model.
        out: The output folder; only its OUT/onnx is read.
        side: ``dense`` or ``compressed``.
    """

    def __init__(self, layout: Layout, source: Source, out: Path, side: str) -> None:
        self.layout, self.source, self.out, self.side = layout, source, out, side
        self.pipeline = str(source.index.get("_class_name", ""))
        self.family = family(source.class_name)

    def check(self) -> None:
        """Refuse what the layout's readers do not know. Raises InputError."""
        if self.pipeline not in self.layout.pipelines:
            what = f"a {self.pipeline}" if self.pipeline else "a denoiser without a pipeline"
            raise InputError(
                f"--layout {self.layout.name}: {self.layout.readers} has no reader for {what}",
                hint=f"it reads {', '.join(sorted(self.layout.pipelines))}; "
                "diffc bundle serves every family",
            )
        if self.family.condition_channels(self.source.config):
            raise InputError(
                f"--layout {self.layout.name}: the graph of this {self.source.class_name} takes "
                "the image that it is conditioned on as inputs of their own",
                hint="diffc bundle serves it",
            )
        vae = self.source.vae
        if vae is not None and vae.class_name not in family_names():
            raise InputError(
                f"--layout {self.layout.name}: the pipeline's VAE is a {vae.class_name}, which its "
                "readers do not know",
                hint="diffc bundle serves it",
            )
        if not (self.out / "onnx" / DECODER / DESCRIPTION).is_file():
            raise InputError(
                f"{self.out / 'onnx' / DECODER} is missing: diffc exports no decoder of this VAE",
                hint="the layouts hold whole pipelines; diffc bundle needs no decoder",
            )
        onnx_folder(self.out, VAE_ENCODER)
        for part in self._encoders():
            if find_kind(part.class_name) is None:
                raise InputError(f"{part.name} is a {part.class_name}, which diffc cannot export")
            if part.config.get("use_attention_mask"):
                raise InputError(
                    f"{part.name} looks at the mask of its padding, which the readers of "
                    f"'{self.layout.name}' do not give to it"
                )

    def write(self, new: Path) -> None:
        """Write every component, and model_index.json."""
        from diffc.layouts.torch_graphs import write_text_encoder

        opset = int(read_json(self.out / "onnx" / self.side / DESCRIPTION)["opset"])
        place = _component(new, self.source.component, self.source.config)
        self._write_exported(self.side, family(self.source.class_name).pipeline_call, place)
        for part in self._encoders():
            place = _component(new, part.name, part.config)
            write_text_encoder(part, place / _EXPORTED, opset)
            self._write_graph(place)
        self._write_vae(new)
        index = dict(self.source.index)
        for part in self.source.components:
            if part.name == self.source.component:
                index[part.name] = ["diffusers", self.source.class_name]
            elif not part.is_network and part.exists:
                self._copy_files(part, new / part.name)
                if part.is_tokenizer:
                    index[part.name] = [part.library, self.layout.tokenizer_class(part)]
            elif not self._is_written(part):
                index[part.name] = [None, None]
        (new / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")

    def _encoders(self) -> list[Component]:
        return [part for part in self.source.components if part.is_text_encoder and part.exists]

    def _is_written(self, part: Component) -> bool:
        return part == self.source.vae or (part.is_text_encoder and part.exists)

    def _write_vae(self, new: Path) -> None:
        """Write decoder and encoder, each with the whole VAE's config."""
        assert self.source.vae is not None
        config = full_config(self.source.vae)
        decoder = family(self.source.vae.class_name).pipeline_call
        self._write_exported(DECODER, decoder, _component(new, _DECODER, config))
        self._write_exported(VAE_ENCODER, _ENCODER_CALL, _component(new, _ENCODER, config))

    def _write_exported(self, name: str, call: PipelineCall, place: Path) -> None:
        """Write a graph of OUT/onnx as a pipeline calls it."""
        write_called(
            self.out / "onnx" / name / MODEL,
            call,
            place / _EXPORTED,
            scalar_timestep=self.layout.scalar_timestep,
            zero_ended=self._zero_ended(),
        )
        self._write_graph(place)

    def _write_graph(self, place: Path) -> None:
        """Turn the ONNX file in ``place`` into the layout's own form."""
        exported = place / _EXPORTED
        self.layout.write_graph(exported, place)
        shutil.rmtree(exported.parent)

    def _copy_files(self, part: Component, place: Path) -> None:
        """Copy a scheduler's, tokenizer's or image processor's own files."""
        for path in part.files:
            copy_file(path, place / path.name)
        if part.is_tokenizer:
            self.layout.write_tokenizer(part, place)
        path = place / SCHEDULER_CONFIG
        if self.layout.fixes_shift and path.is_file():
            path.write_text(
                json.dumps(self._at_one_size(read_json(path)), indent=2) + "\n", "utf-8"
            )

    def _sample_shape(self) -> tuple[int, ...]:
        inputs = read_json(self.out / "onnx" / self.side / DESCRIPTION)["inputs"]
        return next(tuple(one["shape"]) for one in inputs if one["kind"] == "sample")

    def _at_one_size(self, config: JsonObject) -> JsonObject:
        """Return a scheduler's config with the shift of the only size that the graph takes.

        An exponential shift by mu is a linear one by exp(mu).
        """
        if self.family.pipeline_call.patch == 1 or not config.get("use_dynamic_shifting"):
            return config
        mu = image_shift(config, self._sample_shape())
        exponential = config.get("time_shift_type", "exponential") == "exponential"
        shift = math.exp(mu) if exponential else mu
        return {**config, "use_dynamic_shifting": False, "shift": shift}

    def _zero_ended(self) -> list[str]:
        """Return the conditions that end in zeros.

        Stable Diffusion 3 has zeros in the place of a T5 that is left out: 256 rows in diffusers
        0.42, 77 in 0.35 and in OpenVINO GenAI.
        """
        path = self.out / "onnx" / TEXT_FOLDER / PLAN_FILE
        plan = read_json(path)["conditions"] if path.is_file() else {}
        return [
            name
            for name, rows in plan.items()
            if len(rows) > 1 and all(piece["part"] == ZEROS for piece in rows[-1])
        ]


def _component(new: Path, name: str, config: JsonObject) -> Path:
    """Make a component's folder with its config.json."""
    place = new / name
    (place / _EXPORTED).parent.mkdir(parents=True)
    text = json.dumps(dict(config), indent=2, default=list) + "\n"
    (place / "config.json").write_text(text, "utf-8")
    return place
