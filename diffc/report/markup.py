"""HTML from functions: every plain string is escaped, so nothing from a report can become a tag."""

from __future__ import annotations

from html import escape


class Html(str):
    """Markup. Only ``tag`` and ``joined`` make it, and they escape every other string."""

    __slots__ = ()


Child = str | Html | int | float | None


def tag(element: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Return ``<element attributes>children</element>``.

    Args:
        element: The element's name.
        children: What it holds. Strings other than ``Html`` are escaped; None is left out.
        attributes: None and False leave an attribute out; True gives one without a value.
            ``class_`` and ``for_`` are class and for; ``_`` inside a name is ``-``.
    """
    inside = joined(*children)
    opened = f"<{element}{''.join(_attribute(*pair) for pair in attributes.items())}>"
    return Html(opened if element in _VOID else f"{opened}{inside}</{element}>")


def joined(*children: Child) -> Html:
    """Return the children one after the other; strings other than ``Html`` are escaped."""
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
