"""The engine folder: the engine's files and engine.json, written whole, checked before loading.

engine.json says what was built (target, versions, device, shapes, precision asked and found), from
what (the source's model.json, whole), and the hash of every file. Plain dataclasses: this file is
imported by the process whose memory is measured.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diffc_export.targets.base import Range
from diffc_export.targets.onnx_file import InputSpec, OnnxModel, Size, sizes_of
from diffc_export.targets.onnx_precision import FLOATS, file_precision
from diffc_export.targets.shapes import Profile, profile_words
from diffc_runtime.engine_folder import FORMAT, check_files, read_engine_json
from diffc_runtime.engine_folder import NAME as NAME
from diffc_runtime.errors import CheckFailed, InputError, NotComparable
from diffc_runtime.files import file_digest, new_folder
from diffc_runtime.fit import tied_difference


@dataclass(frozen=True)
class EngineInfo:
    """What engine.json says.

    Attributes:
        target: The target's name.
        versions: Package -> version, at the build.
        device: What the engine was built on or for.
        inputs: The inputs, in the order of the ONNX file.
        outputs: The outputs, likewise.
        precision_asked: What was to be computed in.
        precision_found: The same, once the engine was seen to compute in it what the ONNX file has
            in it.
        precision_shares: Precision -> the share of the weights of convolutions and matrix products
            that the engine computes in it.
        tied_to: The keys of versions and device that must be equal where it is loaded.
        built_for: Compute capabilities of an ahead-of-time build ("sm86", or "sm80+").
        profiles: Input -> (min, opt, max) shapes, one mapping per profile; empty: any batch.
        threads: The threads of the request; None: every core of the machine that it is loaded on.
        files: File name -> sha256.
        engine_bytes: Their sum; of what the engine loads from elsewhere where it has no file itself
            (torch).
        build_seconds: The builder's own time.
        source: The content of the ONNX folder's model.json.
        details: What else the target saw in the engine (layers, options). A loaded engine adds what
            came of loading it: ``timed_by`` ("GPU events" or "clock"), and where there are CUDA
            graphs ``captured``, or the reason in ``not_captured``.
    """

    target: str
    versions: Mapping[str, str]
    device: Mapping[str, str]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    precision_asked: str
    precision_found: str
    precision_shares: Mapping[str, float]
    tied_to: tuple[str, ...] = ()
    built_for: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    threads: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    engine_bytes: int = 0
    build_seconds: float = 0.0
    source: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that the profiles are best at."""
        sizes = (next(iter(profile.values())).opt[0] for profile in self.profiles)
        return tuple(dict.fromkeys(sizes))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) that the sample was built for, the working one first; empty: it is fixed."""
        return sizes_of(self.inputs)

    @property
    def interface(self) -> dict[str, str]:
        """Dtype and shape (without the batch) of every input and output, in words and in order.

        ``{"sample": "float32 [1, 16, 16]", ...}``. Where two engines have the same, either can
        serve in the other's place.
        """
        return {
            spec.name: f"{spec.dtype} {list(spec.shape)}" for spec in self.inputs + self.outputs
        }

    @property
    def served(self) -> list[str]:
        """The shapes that it was built for, one line a profile; empty: any batch."""
        return [profile_words(profile) for profile in self.profiles]

    def with_details(self, **facts: Any) -> EngineInfo:
        """The same with more in ``details``."""
        return replace(self, details={**self.details, **facts})

    def to_json(self) -> dict[str, Any]:
        """As engine.json holds it."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EngineInfo:
        """The reverse of ``to_json``. Raises KeyError, TypeError for other content."""
        rest = {key: value for key, value in content.items() if key != "format"}
        rest["inputs"] = tuple(_spec(item) for item in rest["inputs"])
        rest["outputs"] = tuple(_spec(item) for item in rest["outputs"])
        rest["profiles"] = tuple(_profile(item) for item in rest["profiles"])
        rest["tied_to"], rest["built_for"] = tuple(rest["tied_to"]), tuple(rest["built_for"])
        return cls(**rest)


def _spec(item: Mapping[str, Any]) -> InputSpec:
    sizes = tuple((height, width) for height, width in item.get("sizes", ()))
    return InputSpec(**{**item, "shape": tuple(item["shape"]), "sizes": sizes})


def _profile(item: Mapping[str, Any]) -> Profile:
    return {
        name: Range(tuple(r["min"]), tuple(r["opt"]), tuple(r["max"])) for name, r in item.items()
    }


@contextmanager
def new_engine_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder, and put it in the place of ``out`` when the block ends well.

    When the block fails, the folder is removed and ``out`` stays as it was.

    Raises:
        InputError: ``out`` is there and is no engine folder: it is not diffc's.
    """
    if out.exists() and any(out.iterdir()) and not (out / NAME).is_file():
        raise InputError(f"{out} exists and is not an engine folder: it is left as it is")
    with new_folder(out) as new:
        yield new


def write_info(folder: Path, info: EngineInfo) -> EngineInfo:
    """Hash the files in ``folder``, write engine.json, and return what it says."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    hashes = {str(p.relative_to(folder)): file_digest(p) for p in files}
    engine_bytes = sum(p.stat().st_size for p in files) or info.engine_bytes
    whole = replace(info, files=hashes, engine_bytes=engine_bytes)
    (folder / NAME).write_text(json.dumps(whole.to_json(), indent=2) + "\n")
    return whole


def read_info(folder: Path) -> EngineInfo:
    """What ``folder``'s engine.json says. Raises InputError when it is none; checks no file."""
    content = read_engine_json(folder)
    try:
        return EngineInfo.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        path = folder / NAME
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def engine_digest(folder: Path) -> dict[str, Any]:
    """What of an engine decides what is measured of it, as JSON has it; figures are kept by it.

    Its model.json says how it is sampled. torch's engine has no file, only its model's digest.
    """
    info = read_info(folder).to_json()
    facts = {key: info[key] for key in ("target", "files", "threads", "profiles", "source")}
    facts["torch"] = [info["details"].get(key) for key in ("digest", "variant")]
    value: dict[str, Any] = json.loads(json.dumps(facts))
    return value


def exported_file(source: Mapping[str, Any]) -> str | None:
    """sha256 of the fp32 ONNX file that an engine comes from, whatever its own precision.

    Args:
        source: The content of the model.json that the engine was built from.

    Returns:
        None where it does not say: a file in a lower precision that an older diffc wrote.
    """
    key = "sha256" if source.get("precision", "fp32") == "fp32" else "made_from"
    return str(source[key]) if key in source else None


def open_engine(folder: Path, target: str, here: Mapping[str, str]) -> EngineInfo:
    """Read and check an engine folder before its engine is loaded.

    here: this machine's versions and device, by the same keys as the engine's.
    Raises InputError for the wrong target or a file that was cut or altered, NotComparable for
    an engine of another version or machine.
    """
    info = read_info(folder)
    if info.target != target:
        raise InputError(f"{folder} holds an engine for '{info.target}', not '{target}'")
    check_files(folder, info.files)
    check_fingerprint(folder, info, here)
    return info


def check_fingerprint(folder: Path, info: EngineInfo, here: Mapping[str, str]) -> None:
    """Raise NotComparable, with both fingerprints, when ``info`` is tied to another machine."""
    difference = tied_difference(info.to_json(), here)
    if difference is not None:
        built, now = difference
        raise NotComparable(
            f"{folder} was built for another machine or version: built for {built}; here {now}",
            hint=f"build it here from its ONNX folder: `diffc build OUT --target {info.target}`",
        )


_LEEWAY = 0.02  # of the weights: builders count a folded or padded layer in another way


def check_precision(
    asked: str,
    held: Mapping[str, float],
    model: OnnxModel,
    engine: str,
    hinted: Collection[str] = (),
    strict: bool = True,
) -> str:
    """Return what an engine computes in, once it is seen to do what was wanted.

    Args:
        asked: The precision that was asked for.
        held: Precision -> the share of the engine's weights that it computes in it.
        model: The ONNX file, which says how much is to be expected: a quantised one keeps its
            sensitive layers in floats on purpose.
        engine: The engine in words, for the message.
        hinted: Precisions that the target computes float layers in whatever the file has them in;
            then every float layer is to be in the one asked for.
        strict: See ``is_promised``; if not, the answer is whatever the engine computes in.

    Raises:
        CheckFailed: Layers fell back; the message has both sides' shares.
    """
    if not strict:
        return file_precision(held)
    reach = FLOATS if asked in hinted else (asked,)
    wanted = sum(model.shares.get(name, 0.0) for name in reach)
    share = held.get(asked, 0.0)
    if (model.shares or held) and (share == 0 or share < wanted - _LEEWAY):
        raise CheckFailed(
            f"{engine}: {asked} was asked for, the built engine computes in {share_words(held)}; "
            f"by the ONNX file ({share_words(model.shares)}) {wanted:.0%} were to be in {asked}",
            hint="the runtime fell back silently; ask for a precision that it has here",
        )
    return asked


def share_words(held: Mapping[str, float]) -> str:
    """'fp32 75%, fp16 25%', the largest first."""
    ranked = sorted(held, key=lambda name: -held[name])
    return ", ".join(f"{name} {held[name]:.0%}" for name in ranked) or "no known precision"


def is_promised(model: OnnxModel, asked: str | None) -> bool:
    """True where a precision was promised, by the caller or by the file's model.json.

    A plain .onnx file promises none: its engine may compute in another precision than the file's.
    """
    return asked is not None or bool(model.content)


def asked_precision(model: OnnxModel, asked: str | None, hinted: Collection[str] = ()) -> str:
    """Return the precision to expect in the engine.

    Args:
        model: The ONNX file.
        asked: What was asked for; None: whatever the file has.
        hinted: Precisions that the target makes of an fp32 file by itself.

    Raises:
        InputError: The file holds another one.
    """
    if asked in hinted and model.precision == "fp32":
        return str(asked)
    if asked is not None and asked != model.precision:
        raise InputError(
            f"{model.path} is {model.precision}, {asked} was asked for",
            hint=f"export it with --precision {asked}: engines keep what the ONNX file says",
        )
    return model.precision
