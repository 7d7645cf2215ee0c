"""The site says below a command why the tests do not run it (mkdocs calls this hook).

<!-- not run: REASON -->     above a block of commands; a comment is invisible on a site
"""

from __future__ import annotations

import re
from typing import Any

NOT_RUN = re.compile(r"^<!-- not run: (.*?) -->\n(```(?:bash|python)\n.*?^```$)", re.M | re.S)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page's text with the reasons below the blocks."""
    return NOT_RUN.sub(r"\2\n\n<small>Not run by the tests: \1.</small>\n", markdown)
