"""diffc doctor: shows what works here, and why the rest does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffc_export.targets.base import Status, Target
    from diffc_runtime.json_types import JsonObject


@takes("json")
def doctor_(command: Command) -> None:
    """Show which targets work on this machine and why not, versions, and GPUs.

    \b
      diffc doctor
      diffc doctor --json
    """
    from dataclasses import asdict

    from diffc import __version__
    from diffc.cli.show import print_json
    from diffc.measure.environment import read_environment
    from diffc.measure.quality import broken_metrics, metric_names
    from diffc.models.families import broken_families, family_names
    from diffc.prune.importance import broken_scores, score_names
    from diffc.report.sections import broken_sections, section_names
    from diffc_export.cache import cache_folder
    from diffc_export.targets import problems, targets
    from diffc_export.targets.base import Status

    environment = read_environment().model_dump(mode="json")
    states = {name: _status(one) for name, one in targets().items()}
    unusable = {name: Status(False, False, False, reason) for name, reason in problems().items()}
    statuses = {name: asdict(status) for name, status in (states | unusable).items()}
    if command.json:
        added = {
            "families": _usable_and_broken(family_names(), broken_families()),
            "scores": _usable_and_broken(score_names(), broken_scores()),
            "sections": _usable_and_broken(section_names(), broken_sections()),
            "metrics": _usable_and_broken(metric_names(), broken_metrics()),
        }
        here = {"environment": environment, "cache": str(cache_folder())}
        print_json({"diffc": __version__, "targets": statuses, **added, **here})
        return
    broken = broken_families() | broken_scores() | broken_sections() | broken_metrics()
    _show(statuses, environment, broken)
    _show_room(environment)


def _status(one: Target) -> Status:
    """What a target can do here; another package's may raise, although it must not."""
    from diffc_export.targets.base import Status
    from diffc_runtime.errors import in_short

    try:
        return one.status()
    except Exception as error:
        words = f"its status() raised {type(error).__name__}: {in_short(error)}"
        return Status(False, False, False, words.removesuffix(": "))


def _usable_and_broken(names: list[str], broken: dict[str, str]) -> dict[str, object]:
    return {"usable": [name for name in names if name not in broken], "broken": broken}


def _show(
    statuses: dict[str, dict[str, object]], environment: dict[str, object], broken: dict[str, str]
) -> None:
    from diffc.cli.show import answers
    from diffc.report.tables import WIDEST, Column, print_table, print_whole
    from diffc_runtime.machine.driver import no_gpu

    screen = answers()
    heads = [Column(head, left=True) for head in ("target", "builds", "runs")]
    columns = [*heads, Column(text=True)]
    rows = []
    for name, status in statuses.items():
        versions = status["versions"]
        assert isinstance(versions, dict)
        said = str(status["reason"]) or ", ".join(f"{k} {v}" for k, v in versions.items())
        rows.append((name, _mark(status["buildable"]), _mark(status["runnable"]), said))
    print_table(screen, columns, rows, widest=WIDEST)
    screen.print()
    for why in broken.values():
        print_whole(screen, f"skipped: {why}")
    machine = f"{environment['cpu']}, {environment['cores']} cores"
    print_whole(screen, f"{machine}; Python {environment['python']}")
    gpus = environment["gpus"]
    assert isinstance(gpus, list)
    for line in gpu_lines(gpus) or [no_gpu()]:
        print_whole(screen, line)
    packages = environment["packages"]
    assert isinstance(packages, dict)
    print_whole(screen, ", ".join(f"{k} {v}" for k, v in packages.items()), style="dim")


def _show_room(environment: JsonObject) -> None:
    """What training takes of the machine, its memory, the cache, and what to do next."""
    import shutil

    from diffc.cache_contents import cache_entries, other_bytes
    from diffc.cli.show import answers
    from diffc.report.tables import print_whole
    from diffc.report.units import size
    from diffc_export.cache import cache_folder
    from diffc_export.disks import check_place
    from diffc_runtime.machine.cpu import fast_bf16

    cache = cache_folder()
    kept = sum(entry.size for entry in cache_entries(cache)) + other_bytes(cache)
    disk = next(path for path in (cache, *cache.parents) if path.exists())
    free = size(shutil.disk_usage(disk).free)
    fast, dtype = ("fast", "bf16") if fast_bf16() else ("not fast", "fp32")
    words = f"bf16 is {fast} on this processor, which trains in {dtype} where there is no GPU"
    print_whole(answers(), words)
    print_whole(answers(), f"memory {size(environment['memory_bytes'])}")
    print_whole(answers(), f"cache {cache}: {size(kept)}, {free} free (diffc cache)")
    try:
        check_place(cache, "DIFFC_CACHE")
    except InputError as error:
        print_whole(answers(), f"  no run can begin: {error}; {error.hint}")
    print_whole(answers(), "next: diffc compile demo --ratio 0.5, or diffc plan MODEL")


def gpu_lines(gpus: Sequence[JsonObject]) -> list[str]:
    """One line for each GPU; its MIG slices and a warning when it is busy follow it."""
    lines = []
    for gpu in gpus:
        cuda = f", CUDA {gpu['cuda']}" if gpu["cuda"] else ""
        lines.append(
            f"{gpu['name']}, compute capability {gpu['compute_capability']}, "
            f"{gpu['memory_mib']} MiB, driver {gpu['driver']}{cuda}"
        )
        if gpu["mig"] is not None:
            cut = "; ".join(gpu["mig"]) or "none yet, so no program can use it"
            lines.append(f"  cut into slices (MIG), a program sees the first: {cut}")
        if gpu["busy"]:
            lines.append(
                f"  warning: somebody else is using it, times will not hold: {gpu['busy']}"
            )
    return lines


def _mark(works: object) -> str:
    return "yes" if works else "no"
