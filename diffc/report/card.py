"""The card of a compressed model, OUT/model/README.md: from what, how much smaller, measured how.

It is written with the report. What the dense model's card says of its licence and its use is kept;
the rest of that card is README.dense.md, because it speaks of another model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from diffc.models.components import CARD, DENSE_CARD
from diffc.models.source import PRUNING_FILE
from diffc.report.blocks import Facts
from diffc.report.markdown import code_span, escape
from diffc.report.model import Report
from diffc.report.sections import iterate_parts
from diffc.report.trainings import is_repaired, training_words
from diffc.report.units import change, count, percent
from diffc_runtime.files import write_text
from diffc_runtime.json_types import JsonDict

_KEPT = ("license", "license_name", "license_link", "language", "datasets", "pipeline_tag")


def write_card(report: Report, out: Path) -> None:
    """Write OUT/model/README.md; nothing where OUT holds no compressed model."""
    if (out / "model" / PRUNING_FILE).is_file():
        write_text(out / "model" / CARD, card(report, _dense_facts(out / "model" / DENSE_CARD)))


def card(report: Report, dense: JsonDict) -> str:
    """Return the card as Markdown.

    Args:
        report: The run's report.
        dense: The facts at the top of the dense model's card, which stay true.
    """
    about = {"library_name": "diffusers", "tags": ["diffc", "pruning", "distillation"], **dense}
    front = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    return "\n".join(["---", front + "---", *_lines(report)]) + "\n"


def _lines(report: Report) -> Iterator[str]:
    name = Path(report.model.name).name or report.model.name
    yield f"# {escape(name)}, compressed by diffc"
    yield ""
    small = report.compressed
    if small is not None:
        share = 1 - small.macs / report.model.macs
        yield (
            f"`{report.model.class_name}` of {code_span(name)} with {percent(share, 1)} of its "
            f"MACs cut away{_training(report)}. It is not the dense model: its pictures differ."
        )
        yield from ("", "| | dense | compressed | |", "|---|---:|---:|---:|")
        rows = (
            ("parameters", report.model.params, small.params),
            ("MACs of a call", report.model.macs, small.macs),
        )
        for what, before, after in rows:
            yield f"| {what} | {count(before)} | {count(after)} | {change(before, after)} |"
    yield from _loras(report)
    yield from ("", "## Measured", "")
    yield from _measured(report)
    yield from ("", *_LOAD.splitlines())
    yield from ("", f"Made by diffc {report.diffc}, {report.created}.")


def _loras(report: Report) -> Iterator[str]:
    """The LoRAs that are in the weights, by their hashes."""
    if not report.loras:
        return
    yield from ("", "LoRAs fused into the weights, of the dense model too:", "")
    for lora in report.loras:
        late = ", after the compression, cut by its plan" if lora.late else ""
        yield f"- {code_span(lora.name)} at {lora.weight:g}{late} (sha256 {lora.sha256})"


def _training(report: Report) -> str:
    """What was done to it after the cut; it says so where it was not trained."""
    repaired = ", repaired in closed form" if is_repaired(report) else ""
    words = training_words(report)
    if words in ("", "-"):
        return f"{repaired}, and not trained after the cut"
    return f"{repaired}, and distilled from it ({escape(words)})"


def _measured(report: Report) -> Iterator[str]:
    """The report's headline: its verdict and its most important figures."""
    headlines = (block for part in iterate_parts(report) for block in part.blocks)
    facts = next((block for block in headlines if isinstance(block, Facts)), None)
    if facts is None or not (report.targets or report.quality):
        yield "Nothing yet."
        return
    yield escape(facts.sentence)
    yield ""
    for fact in facts.facts:
        more = f" ({escape(fact.remark)})" if fact.remark else ""
        yield f"- {escape(fact.name)}: {escape(fact.figure)}{more}"
    if report.environment is not None:
        yield ""
        yield "The report has how it was measured, and on what machine."


_LOAD = """\
## Load it

```python
import diffc

pipeline = diffc.load("FOLDER")  # this folder, as a diffusers pipeline in torch
```

`DiffusionPipeline.from_pretrained("FOLDER")` opens it too, in a program that has imported diffc.
The tensors are smaller than the class's config says, which diffusers alone does not read."""


def _dense_facts(path: Path) -> JsonDict:
    """What the dense model's card says at its top of licence, data and use; {} without one."""
    try:
        _, front, *_ = path.read_text("utf-8").split("---\n", 2)
        content = yaml.safe_load(front)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: content[key] for key in _KEPT if key in content}
