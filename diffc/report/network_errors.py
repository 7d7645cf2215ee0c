"""How far a network's output is from the dense model's and from the noise, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from diffc.report.blocks import Table
from diffc_runtime.json_types import JsonObject

_HEADS = ("", "to the dense model", "to the noise")


def error_table(record: JsonObject, networks: Mapping[str, str]) -> Table:
    """Squared errors of several networks, on samples held out.

    Args:
        record: What a stage found out, with each network's ``to_dense`` and ``to_noise``.
        networks: The key in ``record`` -> the name in the table. What is not there has no row.
    """
    rows = [
        (name, f"{errors['to_dense']:.4g}", f"{errors['to_noise']:.4g}")
        for key, name in networks.items()
        if (errors := record.get(key))
    ]
    return Table(rows, _HEADS)
