"""Docstrings for the site: ``name: what it is`` at a line's start becomes an entry of a list.

diffc writes arguments and fields that way, and Markdown would run them together in one paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Extension

# two entries on one line: "images: how many. steps: of the sampler."
SECOND = re.compile(r"(?<=[.)]) (?=`{0,2}[a-z_]+`{0,2}: )")
ENTRY = re.compile(r"^(`{0,2}[a-z_][\w, .|/]*`{0,2}): (?=\S)")


class NamesAsList(Extension):
    """The griffe extension that mkdocs.yml names."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """``text`` with its runs of entries as Markdown lists; code blocks stay as they are."""
    lines: list[str] = []
    inside = False
    for line in _apart(text):
        entry = ENTRY.match(line)
        if entry:
            if not inside and lines and lines[-1].strip():
                lines.append("")
            lines.append(f"- `{entry[1].strip('`')}`: {line[entry.end() :]}")
        elif inside and line.strip() and not line.startswith("    "):
            lines.append(f"  {line}")
        else:
            lines.append(line)
        inside = bool(entry) or (inside and bool(line.strip()))
    return "\n".join(lines)


def _apart(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from SECOND.split(line) if ENTRY.match(line) else [line]
