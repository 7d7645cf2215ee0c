"""The layouts by name."""

from __future__ import annotations

from diffc.layouts import openvino, optimum
from diffc.layouts.base import Layout

LAYOUTS: dict[str, Layout] = {one.name: one for one in (optimum.LAYOUT, openvino.LAYOUT)}
