"""What a search of the tiny model is about: two networks, two loops."""

from __future__ import annotations

from support.runs import options_of

OPTIONS = options_of({"measure": {"frontier": "off"}})
VALUES = {"ratio": [0.2, 0.4], "precision": ["fp32"], "loop": ["ddim:2", "ddim:1"]}
GOAL = 0.3
"""An SSIM that each of the points reaches."""
