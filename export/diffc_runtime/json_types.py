"""The content of JSON files, as types. Imports the standard library alone.

JSON's values are as the file has them: who reads one checks it (``int(config["in_channels"])``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]
"""An object to read: engine.json, a model's config.json, or a part of either."""
JsonDict: TypeAlias = dict[str, Any]
"""An object that its owner may change, or has just built."""
