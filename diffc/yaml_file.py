"""A YAML file of options, read without running anything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffc.errors import InputError


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would drop the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                raise InputError(f"'{name}' stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        InputError: when the file cannot be read, is no mapping, or names a key twice.
    """
    try:
        value = _value(path.read_text("utf-8"))
    except InputError as error:
        raise InputError(f"{path}: {error}", hint="leave one of them out") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no mapping of options")
    return value


def _value(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _reason(error: Exception) -> str:
    """One line about what is wrong in the file, and where."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}: {problem}"
    return " ".join(str(error).split())[:150] or type(error).__name__
