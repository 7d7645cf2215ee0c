"""Reads a YAML file of options, without running anything in it."""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from diffc.errors import InputError

if TYPE_CHECKING:
    _OfLibyaml = yaml.SafeLoader
else:
    _OfLibyaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _KeysOnce(yaml.constructor.SafeConstructor):
    """Refuses a key that stands twice in one mapping: YAML would drop the first of them."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                raise InputError(f"'{name}' stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)


class _Loader(_KeysOnce, yaml.SafeLoader):
    """Says best what is wrong in a text."""


class _QuickLoader(_KeysOnce, _OfLibyaml):
    """The same by libyaml, where PyYAML was built with it: several times as fast."""


def read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping in a YAML file; {} for an empty file.

    Raises:
        InputError: The file cannot be read, is not a mapping, or has a key twice.
    """
    try:
        value = deepcopy(_parse(path.read_text("utf-8")))
    except InputError as error:
        raise InputError(f"{path}: {error}", hint="leave one of them out") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a mapping of options")
    return value


@lru_cache(maxsize=64)
def _parse(text: str) -> object:
    """What a text holds; no caller may change it. A run reads its own lock again and again."""
    try:
        return _parse_by(_QuickLoader, text)
    except yaml.YAMLError:  # libyaml has other words for it
        return _parse_by(_Loader, text)


def _parse_by(kind: type[_Loader | _QuickLoader], text: str) -> object:
    loader = kind(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _reason(error: Exception) -> str:
    """One line about what is wrong in the file, and where."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark and error.problem:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())[:150] or type(error).__name__
