"""Which layers int8 leaves in fp32 where groups of layers are measured, beside single layers.

    python -m bench.fp32_layers        writes bench/results/fp32_layers.json

``diffc_export.onnx.mixture`` tries each layer of a small file alone; of a large one groups. Here
small networks with random weights go both ways: how many layers stay in fp32, their share of the
MACs, the error that is left, and the calls that it took. A tolerance is a share of the error of the
network with every layer in int8.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from bench import full_size
from diffc.measure.environment import read_environment
from diffc_export.events import drain
from diffc_export.onnx.layer_macs import layer_macs
from diffc_export.onnx.mixture import choose_fp32_layers
from diffc_export.onnx.qdq import Pairs
from diffc_export.onnx.quantize import QuantizeOptions, noise_levels, open_trials, trajectory_feeds
from diffc_export.onnx.trials import PrecisionTrials
from diffc_export.targets.onnx_file import read_onnx

RESULT = Path(__file__).parent / "results" / "fp32_layers.json"
NETWORKS = ("cifar", "dit-xl-2")
SHARES = (0.8, 0.6, 0.4)
_ROWS = 4  # of a trajectory


def main() -> None:
    """Both ways of every network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    args = parser.parse_args()
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rows": [row for name in args.networks for row in rows_of(name)],
        "environment": read_environment().model_dump(mode="json"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def rows_of(name: str) -> list[dict[str, Any]]:
    """Both ways of one network, at each tolerance."""
    network = full_size.NETWORKS[name]
    full_size.NETWORKS[name] = replace(network, config={**network.config, **network.small})
    with tempfile.TemporaryDirectory() as folder:
        for step in (full_size.write, full_size.export, full_size.reference):
            step(name, Path(folder))
        scratch = Path(folder) / "trials"
        scratch.mkdir()
        source = read_onnx(Path(folder) / "fp32")
        feeds = drain(trajectory_feeds(source, QuantizeOptions(trajectories=1)))
        rows = [feeds[i] for i in np.linspace(0, len(feeds) - 1, _ROWS).astype(int)]
        rows += noise_levels(source)
        trials = Once(drain(open_trials(source, feeds, rows, Pairs(), scratch, 1)))
        work = layer_macs(trials.plain, None, scratch)
        return [one for share in SHARES for one in both_ways(name, trials, work, share)]


class Once:
    """Trials that compare a mixture only once on all rows, and count the calls as if each time."""

    def __init__(self, trials: PrecisionTrials) -> None:
        self._trials, self._errors = trials, dict[Any, tuple[float, int]]()
        self.layers, self.plain, self.calls = trials.layers, trials.plain, 0

    def error(self, kept: Any, limit: float = np.inf, rows: int | None = None) -> float:
        """As the trials say it, or have said it."""
        key = (frozenset(kept), limit, rows)
        if limit < np.inf or rows is not None or key not in self._errors:
            before = self._trials.calls
            error = self._trials.error(kept, limit, rows)
            self._errors[key] = error, self._trials.calls - before
        error, calls = self._errors[key]
        self.calls += calls
        return error

    def sort_rows(self) -> float:
        """As the trials say it."""
        before = self._trials.calls
        error = self._trials.sort_rows()
        self.calls += self._trials.calls - before
        return error


def both_ways(
    name: str, trials: Once, work: dict[str, float], share: float
) -> list[dict[str, Any]]:
    """The layers that stay in fp32, by single layers and by groups."""
    whole, total, rows = trials.error([]), sum(work.values()), []
    for grouped in (False, True):
        trials.calls = 0
        options = QuantizeOptions(tolerance=share * whole, keep_most=1.0)
        choice = choose_fp32_layers(trials, trials.layers, options, work, grouped=grouped)
        kept, error = drain(choice)
        rows.append({
            "network": name, "layers": len(trials.layers), "whole": whole, "share": share,
            "by": "groups" if grouped else "layers", "kept": len(kept),
            "kept_work": sum(work.get(one, 0.0) for one in kept) / total, "error": error,
            "calls": trials.calls,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
