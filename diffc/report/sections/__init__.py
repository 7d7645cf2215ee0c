"""The sections of a report: one file each, found by listing this folder.

A section is a file that sets ``SECTION``: its title, its place in the order, and a function that
builds its blocks from the report. The terminal, Markdown and HTML show the same sections. Another
distribution adds one with an entry point of the group ``diffc.sections`` (docs/extending.md).

    headline       the report in one sentence        precisions     the precisions tried
    models         sizes of both models              serving        through an inference server
    samples        pictures and their quality        clean_data     what was trained on
    frontier       other loops of both sides
    ladders        where the speed-up comes from     widths         channels of every layer
    reductions     what was cut                      importance     which timesteps count
    calls          one call of the network           distillation   the loss
    whole_images   the whole sampling loop           stages         time and memory of the run
    machine        what it was measured on           reproduce      the command
    encoders       of texts and images
    next_steps     what to do with OUT now           evaluations    what diffc eval has added

timings.py  helps calls and whole_images.
block_local.py  what each block of the network learnt alone
calls.py   one call of the network on each target, and the memory of its engines
clean_data.py  the clean samples of the training, if the run has notes on them
distillation.py  the loss step by step, and the quality on the way
evaluations.py  samples that diffc eval judged otherwise than the run
frontier.py  the loops of both sides in time and quality, and who is ahead
image_ladder.py  from torch with the reference loop to the loop that is served
headline.py  the report in one sentence, and its most important figures
importance.py  L_t / L_max, the threshold T, and S, the timesteps that count
ladders.py  where the speed-up comes from
next_steps.py  what can be done with the output folder now
machine.py  the machine and the versions that the figures were measured with
models.py  the sizes of both models, and the notes of the run
precisions.py  the precision of each target that was to choose one by measuring, and what it chose
               from
reductions.py  by what factor parameters, MACs and times fell
repair.py  the repair right after the cut: the errors of the network and of each layer
reproduce.py  the commands that made the run
samples.py  samples of both models from the same noise: the pictures, and how close they are
serving.py  the sampling loop through an inference server, dense beside compressed, per target
stages.py  how long each stage took, and its memory
whole_images.py  whole images on each target: the sampling loop with all that belongs to it
encoders.py  the encoders of texts and images: engines, and how close they are to torch
widths.py  channels of every layer before and after
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from diffc.report.blocks import KINDS, Block, Details, Notes, Part, drop_empty
from diffc.report.model import Report
from diffc_export.discovery import Registry


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        title: The heading of its blocks, and its name in errors.
        order: Its place: sections are shown from the lowest number to the highest. diffc's own
            are 0 to 160.
        build: Takes the report and gives blocks, or parts that have titles of their own. Nothing
            is shown of a section that gives none.
    """

    title: str
    order: int
    build: Callable[[Report], Iterable[Block | Part]]


def parts(report: Report) -> list[Part]:
    """Return everything that a rendering shows, in reading order.

    A section that fails is a part that says so, and stops no other.
    """
    return list(iterate_parts(report))


def iterate_parts(report: Report) -> Iterator[Part]:
    """The same one by one: who needs the first ones alone does not wait for the others."""
    sections = sorted(
        _REGISTRY.usable().values(), key=lambda section: (section.order, section.title)
    )
    for section in sections:
        yield from _parts_of(section, report)
    problems = list(broken_sections().values())
    if problems:
        yield Part("Sections left out", [Notes(problems)])


def section_names() -> list[str]:
    """Return every section's name, diffc's own first: the names of their files."""
    return _REGISTRY.names()


def broken_sections() -> dict[str, str]:
    """Return name -> one line on why another distribution's section cannot be used."""
    return _REGISTRY.problems()


def build_parts(title: str, build: Callable[[], Iterable[Block | Part]]) -> list[Part]:
    """Return the parts of one section, without empty ones."""
    try:
        parts = [Part(part.title, drop_empty(part.blocks)) for part in _grouped(title, build())]
        return [part for part in parts if part.blocks]
    except Exception as error:  # a report written by hand, or another distribution's section
        return [Part(title, [Notes([f"cannot be shown ({type(error).__name__})"])])]


def _parts_of(section: Section, report: Report) -> list[Part]:
    return build_parts(section.title, lambda: section.build(report))


def _grouped(title: str, content: Iterable[Block | Part]) -> Iterator[Part]:
    """Blocks without a part of their own, under the section's title, and then the parts."""
    blocks: list[Block] = []
    with_titles: list[Part] = []
    for item in content:
        if isinstance(item, Part):
            _check_kinds(item.blocks)
            with_titles.append(item)
        else:
            _check_kinds([item])
            blocks.append(item)
    yield Part(title, blocks)
    yield from with_titles


def _check_kinds(blocks: Iterable[object]) -> None:
    for block in blocks:
        if not isinstance(block, KINDS):
            raise TypeError(f"{type(block).__name__} is not a block")
        if isinstance(block, Details):
            _check_kinds(block.blocks)


def _fault(name: str, candidate: object) -> str:
    """Say what is wrong with another distribution's section; empty if nothing is."""
    if isinstance(candidate, Section):
        return ""
    return "its SECTION is not a diffc.report.sections.Section"


_REGISTRY: Registry[Section] = Registry("section", __name__, "SECTION", fault=_fault)
