"""The commands of README and docs: fenced bash and python blocks, and the comment above each.

<!-- not run: REASON -->            the tests do not run the next block, and say why
<!-- run: exit 0, 3 or 4 -->        they do, and it may end with any of these codes
nothing                             they run it, and it must end with 0
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
MARK = re.compile(r"<!-- (not run|run): ((?:(?!-->).)*) -->\n\Z", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block. reason: why it is not run. codes: how it may end."""

    language: str
    text: str
    reason: str | None
    codes: tuple[int, ...]


def blocks(text: str) -> list[Block]:
    """Every bash and python block of a page, in order."""
    found = []
    for fence in FENCE.finditer(text):
        if fence[1] not in ("bash", "python"):
            continue
        mark = MARK.search(text[: fence.start()])
        kind, said = (mark[1], mark[2].strip()) if mark else ("", "")
        codes = tuple(map(int, re.findall(r"\d+", said))) if kind == "run" else (0,)
        reason = said if kind == "not run" else None
        found.append(Block(fence[1], fence[2], reason, codes))
    return found


def commands(block: Block) -> list[str]:
    """The diffc command lines in a bash block."""
    text = block.text.replace("\\\n", " ") if block.language == "bash" else ""
    found = (re.sub(r"\s+#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in found if line.startswith("diffc ")]
