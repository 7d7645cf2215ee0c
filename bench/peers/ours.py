"""diffc's own candidates."""

from __future__ import annotations

from pathlib import Path

from bench.peers.candidate import RUNTIMES, SIDES, Candidate
from bench.peers.subject import Subject
from diffc.errors import DiffcError, UnavailableError
from diffc.measure.parity import closeness, measure_parity
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

PRECISIONS = ("fp32", "bf16", "int8")


def our_folder(subject: Subject, kind: str, side: str) -> Path:
    """The ONNX folder of a precision; bf16 is OpenVINO's own hint, of the fp32 file."""
    return subject.int8(side) if kind == "int8" else subject.onnx(side)


def our_engine(subject: Subject, runtime: str, kind: str, side: str, batch: int) -> Path:
    out = subject.work / f"engine-{runtime}-{kind}-{side}-{batch}-{subject.args.threads}"
    if not (out / "engine.json").exists():
        options = BuildOptions(batch=(batch,), threads=subject.args.threads, precision=kind)
        drain(target(runtime).build(our_folder(subject, kind, side), options, out))
    return out


def ours(subject: Subject, batch: int) -> list[Candidate]:
    kinds = [(runtime, "fp32") for runtime in RUNTIMES]
    kinds += [("openvino", "bf16"), ("openvino", "int8"), ("ort-cpu", "int8")]
    found = []
    for runtime, kind in kinds:
        for side in SIDES:
            one = Candidate(f"diffc {runtime} {kind} {side}", "diffc", runtime, side, kind)
            try:
                if kind not in subject.args.precisions:
                    raise UnavailableError("not measured in this run")
                if kind not in target(runtime).precisions():
                    raise UnavailableError(f"{runtime} does not compute in {kind} here")
                out = our_engine(subject, runtime, kind, side, batch)
                if not subject.args.prepare:
                    _load_ours(one, subject, out, batch)
            except DiffcError as error:  # the precision is not to be had here
                one.reason = " ".join(str(error).split())[:300]
            found.append(one)
    return found


def _load_ours(one: Candidate, subject: Subject, out: Path, batch: int) -> None:
    runner = target(one.runtime).load(out)
    reference = subject.onnx(one.side) / "reference.safetensors"
    parity = drain(measure_parity(runner, reference))
    inputs = {name: value.numpy() for name, value in subject.inputs(batch).items()}
    one.facts = {"parity": parity.model_dump(mode="json"),
                 "precision_shares": dict(runner.info.precision_shares),
                 "kept_fp32": len(runner.info.source.get("kept_fp32", ())),
                 "build_seconds": runner.info.build_seconds}  # fmt: skip
    if one.kind != "fp32":
        exact = target(one.runtime).load(our_engine(subject, one.runtime, "fp32", one.side, batch))
        found = closeness(runner, exact, reference)
        one.facts["ssim_to_fp32"] = None if found is None else found.model_dump()
        exact.close()
    one.call = runner.bind(inputs).run
