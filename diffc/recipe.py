"""What to do: every option of a run, typed and validated.

A recipe is resolved from four layers, the later ones winning key by key:

    built-in defaults < the family's recipe (recipes/*.yaml) < a recipe file < flags

``recipe.lock.yaml`` is the outcome, with every version and every input's hash beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    model_validator,
)

from diffc.distill.options import DistillOptions
from diffc.errors import RequestError, nearest, unknown
from diffc.models.resolutions import Side, as_pair, read_side
from diffc.recipe_words import (
    Limit,
    NoneWord,
    Numbers,
    OnOff,
    PathText,
    Seed,
    Share,
    Sides,
    Words,
)
from diffc.yaml_file import read_yaml
from diffc_export import targets
from diffc_export.disks import user_path

_HERE = Path(__file__).parent
RECIPES = next(p for p in (_HERE / "recipes", _HERE.parent / "recipes") if p.is_dir())
"""In a wheel the recipes lie beside this file, in a checkout beside the package."""
DEFAULT_TARGET = "ort-cpu"
M = TypeVar("M", bound=BaseModel)


class Options(BaseModel):
    """Base of every part of a recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImportanceOptions(Options):
    """How channels are ranked; the methods are defined in prune/importance.py.

    threshold: T, timesteps with L_t / L_max above it count. grid: cells of the loss curve.
    curve_images: images per cell. passes: gradient micro-batches. batch: images in each.
    """

    method: Literal["diff-pruning", "reference", "taylor", "magnitude", "random"] = "diff-pruning"
    threshold: float = Field(default=0.05, ge=0, lt=1)
    grid: int = Field(default=40, ge=2)
    curve_images: int = Field(default=16, ge=1)
    passes: int = Field(default=64, ge=1)
    batch: int = Field(default=8, ge=1)


_COUNTED = {"macs": "MACs", "params": "parameters", "channels": "channels", "latency": "latency"}


class PruneOptions(Options):
    """What to remove.

    ratio: the share removed, of ``ratio_of`` (MACs, parameters, channels or latency).
    align: widths are a multiple of it; None: what the targets and the precision want.
    fixed: globs of layers that may not be cut. floors: glob -> least share of channels kept.
    widths: glob -> channels kept, whatever the allocation says.
    """

    ratio: float = 0.5
    ratio_of: Literal["macs", "params", "channels", "latency"] = "macs"
    allocate: Literal["uniform", "global", "latency"] = "global"
    rounding: Literal["align", "paper"] = "align"
    align: int | None = Field(default=None, ge=1)
    fixed: Words = ()
    floors: dict[str, float] = Field(default_factory=dict)
    widths: dict[str, int] = Field(default_factory=dict)
    importance: ImportanceOptions = ImportanceOptions()

    @model_validator(mode="after")
    def _shares(self) -> PruneOptions:
        if not 0 < self.ratio < 1:
            raise ValueError(
                f"ratio {self.ratio:g} is not between 0 and 1 (0.5 removes half of the "
                f"{_COUNTED[self.ratio_of]})"
            )
        for pattern, floor in self.floors.items():
            if not 0 <= floor <= 1:
                raise ValueError(f"floors: {pattern}: {floor} is no share between 0 and 1")
        return self


class DataOptions(Options):
    """Clean samples for importance, distillation and parity.

    source: ``synthetic`` (the dense model's own samples), an image folder, an ``.npz``, the folder
        of a Hugging Face data set, or a ``.safetensors`` of the denoiser's own inputs
        (data/tensors.py).
    prompts: a text file, one prompt a line, for text-conditioned models. Sample i goes with prompt
        i modulo their number.
    guidance: the scale of classifier-free guidance when the dense model is sampled with prompts,
        or what a model is told that takes it as an input. None: decided from the model
        (data/guidance.py): 4, or 1 for models that were distilled for few steps.
    images: how many are made, or taken at most. steps: DDIM steps of the synthetic ones.
    fit: what happens to images of another size.
    """

    source: PathText = "synthetic"
    prompts: PathText | None = None
    guidance: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    images: int = Field(default=256, ge=1)
    steps: int = Field(default=20, ge=1)
    batch: int = Field(default=32, ge=1)
    fit: Literal["skip", "resize"] = "skip"


class ExportOptions(Options):
    """ONNX: the opset, and whether onnxslim simplifies the graph.

    resolution: sides of the denoiser's own input, 64 or "64x96" (height x width); one, or several
    that one file serves. The first is the one that the model is compressed at; None: the config's.
    A file may say one without a list.
    """

    opset: int = Field(default=20, ge=17, le=23)
    simplify: bool = True
    resolution: Sides | None = None

    @model_validator(mode="after")
    def _sides(self) -> ExportOptions:
        sides = self.resolution
        if sides is None:
            return self
        if not sides or min(min(as_pair(read_side(side))) for side in sides) < 1:
            raise ValueError(f"resolution: {list(sides)} holds no side, or one below 1")
        twice = [side for side in sides if sides.count(side) > 1]
        if twice:
            raise ValueError(f"resolution: {list(sides)} names {twice[0]} twice")
        return self

    @field_serializer("resolution")
    def _as_told(
        self, sides: tuple[int | str, ...] | None
    ) -> int | str | tuple[int | str, ...] | None:
        """One side stays a number, so that what was cached and locked for it stays valid."""
        return sides[0] if sides and len(sides) == 1 else sides

    @property
    def sides(self) -> tuple[Side, ...]:
        """Every side that was given, as numbers; empty for the config's own."""
        return tuple(read_side(word) for word in self.resolution or ())

    @property
    def side(self) -> Side | None:
        """The working side, that the model is compressed, sampled and checked at."""
        return self.sides[0] if self.resolution else None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of everything that one file serves, the working one first; empty for one alone."""
        return tuple(as_pair(side) for side in self.sides) if len(self.sides) > 1 else ()


Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]
TorchWay = Literal["eager", "compiled", "graphs"]


class OwnOptions(Options):
    """What one target has of its own; None: as for every target."""

    precision: Precision | None = None
    batch: Numbers | None = None
    one_profile: bool | None = None
    gpu: Words | None = None
    threads: int | None = Field(default=None, ge=1)
    torch: TorchWay | None = None


class TargetOptions(Options):
    """What to build.

    precision: fp32, fp16, bf16, int8, fp8; auto: the fastest that passes parity, found by measuring
    (chain/choose.py). batch: the batch sizes to build for and to measure. one_profile: one range of
    batch sizes from the smallest to the largest, in place of one profile for each. gpu: compute
    capabilities of ahead-of-time builds (sm86, sm89, ...). threads: CPU threads of the engine
    (None: the machine's cores). torch: how the torch target runs the model. each: target -> what
    it has of its own of all these.
    """

    target: Words = (DEFAULT_TARGET,)
    precision: Precision = "fp32"
    batch: Numbers = (1,)
    one_profile: bool = False
    gpu: Words = ()
    threads: int | None = Field(default=None, ge=1)
    torch: TorchWay = "eager"
    each: dict[str, OwnOptions] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> TargetOptions:
        known = targets.names()
        if not self.target:
            raise ValueError(f"build.target names no target (known: {', '.join(known)})")
        for name in (*self.target, *self.each):
            if name not in known:
                close = nearest(name, known)
                raise ValueError(
                    f"unknown target '{name}' ("
                    + (f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")
                    + ")"
                )
        for batch in (self.batch, *(own.batch for own in self.each.values())):
            if batch is not None and (not batch or min(batch) < 1):
                raise ValueError(f"batch: {list(batch)} holds a size below 1")
        return self

    def of(self, name: str) -> TargetOptions:
        """The options of one target, its own in place of everyone's."""
        held = self.each.get(name, OwnOptions()).model_dump(exclude_none=True)
        return self.model_copy(update={**held, "target": (name,), "each": {}})


def with_own(build: TargetOptions, given: Mapping[str, Any], where: str) -> TargetOptions:
    """``given`` (fields of OwnOptions) for the targets of ``build`` alone, whatever they had.

    Raises RequestError, blaming ``where``, as ``validate`` does.
    """
    given = validate(OwnOptions, given, where).model_dump(exclude_none=True)
    if not given:
        return build
    held = build.model_dump()
    own = {name: {**held["each"].get(name, {}), **given} for name in build.target}
    return validate(TargetOptions, {**held, "each": {**held["each"], **own}}, where)


class MeasureOptions(Options):
    """How long to measure: at least ``runs`` calls and ``seconds`` of each engine, interleaved.

    loop_steps, loop_runs: the whole sampling loop's steps, and how often it is timed.
    explain: where the speed-up comes from: ``on`` from torch eager to the compressed engine,
    ``full`` with torch.compile too (which takes a minute to compile), ``off`` not at all.
    server: an inference server to measure the loop through, besides; None for none.
    """

    runs: int = Field(default=50, ge=10)
    seconds: float = Field(default=3.0, ge=0)
    loop_steps: int = Field(default=20, ge=1)
    loop_runs: int = Field(default=15, ge=1)
    explain: Annotated[Literal["off", "on", "full"], OnOff] = "on"
    server: Annotated[Literal["triton"] | None, NoneWord] = None


class QualityOptions(Options):
    """Dense against compressed samples from the same noise.

    lpips: LPIPS between the pairs as well. reference: images (as ``data.source`` names them) that
    both sides' Frechet and kernel distances are taken to; None for neither. features: whose:
    ``inception`` (FID and KID), or an ONNX file. reference_images: at most so many.
    """

    images: int = Field(default=32, ge=1)
    steps: int = Field(default=50, ge=1)
    seed: Seed = 0
    lpips: bool = False
    reference: PathText | None = None
    features: PathText = "inception"
    reference_images: int = Field(default=10_000, ge=2)


class CheckOptions(Options):
    """What ``diffc check`` allows, as text: a share of the baseline ('5%'), or '500MB', '90s'.

    None: measured and reported, not judged. pairs, most_pairs, seconds: the sequential rule's first
    look, and where it gives up (gate/rule.py). loop_steps: of the whole loop; 0: it is not timed.
    """

    max_slowdown: Share = "5%"
    max_mean_slowdown: Share | None = None
    max_memory: Limit | None = "5%"
    max_engine_size: Limit | None = "5%"
    max_build_time: Limit | None = None
    min_ssim: float | None = None
    pairs: int = Field(default=20, ge=10)
    most_pairs: int = Field(default=320, ge=10)
    seconds: float = Field(default=60.0, gt=0)
    loop_steps: int = Field(default=10, ge=0)


class Recipe(Options):
    """Every option of a run."""

    prune: PruneOptions = PruneOptions()
    data: DataOptions = DataOptions()
    distill: DistillOptions = DistillOptions()
    export: ExportOptions = ExportOptions()
    build: TargetOptions = TargetOptions()
    measure: MeasureOptions = MeasureOptions()
    quality: QualityOptions = QualityOptions()
    check: CheckOptions = CheckOptions()
    seed: Seed = 0

    def for_target(self, name: str) -> Recipe:
        """The recipe with ``build`` as that target has it."""
        return self.model_copy(update={"build": self.build.of(name)})


@dataclass(frozen=True)
class RecipeFile:
    """One of recipes/*.yaml: for whom it is, and the options that differ from the defaults."""

    name: str
    family: str
    models: tuple[str, ...]
    about: str
    options: Mapping[str, Any]
    path: Path


def recipe_files() -> Iterator[RecipeFile]:
    """The recipes that ship with diffc, by name."""
    for path in sorted(RECIPES.glob("*.yaml")):
        yield _recipe_file(path)


def recipe_file(name: str) -> RecipeFile:
    """The shipped recipe ``name``. RequestError with the nearest names when there is none."""
    for found in recipe_files():
        if found.name == name:
            return found
    raise unknown("recipe", name, [found.name for found in recipe_files()])


def resolve(
    *,
    family: str,
    model: str = "",
    recipe: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe for a model of ``family``: defaults < family's recipe < ``recipe`` < ``flags``.

    base: takes the family's place: the recipe that an output folder was made with.
    recipe: a shipped recipe's name or a YAML file. flags: nested like a recipe, None meaning unset.
    Raises RequestError naming the key (and the nearest known one) or the value that is wrong.
    """
    layers = [_family_options(family, model) if base is None else base]
    where = "the flags"
    if recipe is not None:
        options, where = _asked(recipe)
        layers.append(options)
    layers.append(_without_none(flags or {}))
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    _clear_own(merged.get("build"), layers[-1].get("build"))
    return validate(Recipe, merged, where)


def _clear_own(build: Any, flags: Any) -> None:
    """A flag is for every target: drop what single targets have of their own of it."""
    if not isinstance(build, dict) or not isinstance(build.get("each"), Mapping):
        return
    given = set(flags or {}) - {"each"}
    build["each"] = {
        name: {key: value for key, value in own.items() if key not in given}
        for name, own in build["each"].items()
        if isinstance(own, Mapping)
    }


def validate(kind: type[M], value: Mapping[str, Any], where: str) -> M:
    """``value`` as ``kind``; RequestError in one line about the first thing that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explained(kind, error, where) from None


def _recipe_file(path: Path) -> RecipeFile:
    value = read_yaml(path)
    header = {key: value.pop(key, None) for key in ("family", "models", "about")}
    return RecipeFile(
        name=path.stem,
        family=str(header["family"] or ""),
        models=tuple(header["models"] or ()),
        about=str(header["about"] or "").strip(),
        options=value,
        path=path,
    )


def _family_options(family: str, model: str) -> Mapping[str, Any]:
    """The recipe that names the model, on top of its family's (the one that names no model)."""
    merged: dict[str, Any] = {}
    files = [found for found in recipe_files() if found.family == family]
    for found in sorted(files, key=lambda found: bool(found.models)):
        if not found.models or model in found.models:
            merged = _merge(merged, found.options)
    return merged


def _asked(recipe: str | Path) -> tuple[Mapping[str, Any], str]:
    path = user_path(recipe)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise RequestError(f"there is no recipe file '{path}'")
        given = _recipe_file(path).options
        return {part: value for part, value in given.items() if value is not None}, str(path)
    return recipe_file(str(recipe)).options, f"recipe {recipe}"


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in flags.items():
        if isinstance(value, Mapping):
            kept[key] = _without_none(value)
        elif value is not None:
            kept[key] = value
    return kept


def _explained(kind: type[BaseModel], error: ValidationError, where: str) -> RequestError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_at(kind, path[:-1])
        close = nearest(path[-1], known)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
        return RequestError(f"unknown key '{key}' in {where}", hint=hint)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # diffc's own words, which name the value already
        return RequestError(message)
    value = first.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
    return RequestError(f"{key}: {message}{shown}" if key else message)


def _keys_at(kind: type[BaseModel], path: list[str]) -> set[str]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return set()
        kind = inner
    return set(kind.model_fields)
