"""HTML from functions: every plain string is escaped, so nothing from a report can become a tag."""

from __future__ import annotations

from html import escape


class Html(str):
    """Text that is markup already; made by ``tag`` and ``joined`` alone."""

    __slots__ = ()


Child = str | Html | int | float | None


def tag(element: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """``<element attributes>children</element>``.

    Strings that are no ``Html`` are escaped; None leaves a child or an attribute out, True gives an
    attribute without a value. ``class_`` and ``for_`` are class and for; ``_`` in a name is ``-``.
    """
    inside = joined(*children)
    opened = f"<{element}{''.join(_attribute(*pair) for pair in attributes.items())}>"
    return Html(opened if element in _VOID else f"{opened}{inside}</{element}>")


def joined(*children: Child) -> Html:
    """Children one after the other, strings escaped."""
    parts = (c if isinstance(c, Html) else escape(str(c)) for c in children if c is not None)
    return Html("".join(parts))


_VOID = {"meta", "img", "input", "br"}
_SVG_NAMES = {"viewBox", "preserveAspectRatio", "patternUnits", "patternTransform"}


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    shown = name if name in _SVG_NAMES else name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {shown}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {shown}="{escape(text, quote=True)}"'
