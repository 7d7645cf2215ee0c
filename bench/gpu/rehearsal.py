"""What a rehearsal came to: ``python -m bench.gpu --out OUT --small``, then

    python -m bench.gpu.rehearsal OUT

Says of every job how it ended, how long it took and why it was skipped, on what machine and when.
It holds no figure that was measured, since small networks on a CPU say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from diffc_runtime.files import write_text

from .pictures import everything, state

RESULT = Path(__file__).parents[1] / "results" / "gpu-rehearsal.json"
WHAT = "a rehearsal of bench.gpu on a CPU with small networks: nothing was measured on a GPU"


def summary(rows: list[dict]) -> dict:
    """Of every job's result."""
    if any(row["environment"]["gpus"] for row in rows):
        raise SystemExit("there is a GPU here: what was found is results, not a rehearsal")
    jobs = {}
    for row in rows:
        how, _, reason = state(row).partition(": ")
        jobs[f"{row['piece']}/{row['name']}"] = {
            "state": how, "seconds": row["seconds"], **({"reason": reason} if reason else {}),
            **({"absent": row["absent"]} if row.get("absent") else {}),
        }  # fmt: skip
    last = max(rows, key=lambda row: row["date"])
    counts = dict(Counter(job["state"] for job in jobs.values()))
    return {"what": WHAT, "date": last["date"], "environment": last["environment"],
            "counts": counts, "jobs": jobs}  # fmt: skip


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="bench.gpu's --out")
    parser.add_argument("--to", type=Path, default=RESULT)
    args = parser.parse_args()
    found = summary(everything(args.out))
    write_text(args.to, json.dumps(found, indent=1) + "\n")
    print(f"{args.to}: {found['counts']}")


if __name__ == "__main__":
    main()
