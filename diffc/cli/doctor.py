"""diffc doctor: what works here, and why the rest does not."""

from __future__ import annotations

from diffc.cli import options as o


def doctor_(json: o.Json = False) -> None:
    """Show which targets work on this machine and why not, versions, and GPUs.

    \b
      diffc doctor
      diffc doctor --json
    """
    from dataclasses import asdict

    from diffc import __version__
    from diffc.cli.show import print_json
    from diffc.measure.environment import read_environment
    from diffc.stages import cache_folder
    from diffc.targets import names, target

    environment = read_environment().model_dump(mode="json")
    statuses = {name: asdict(target(name).status()) for name in names()}
    if json:
        print_json({"diffc": __version__, "targets": statuses, "environment": environment,
                    "cache": str(cache_folder())})  # fmt: skip
        return
    _show(statuses, environment)


def _show(statuses: dict[str, dict[str, object]], environment: dict[str, object]) -> None:
    from rich.table import Table
    from rich.text import Text

    from diffc.cli.show import console

    screen = console()
    table = Table(box=None, pad_edge=False, width=80)
    for heading, ratio in (("target", None), ("builds", None), ("runs", None), ("", 1)):
        table.add_column(heading, ratio=ratio, no_wrap=ratio is None)
    for name, status in statuses.items():
        versions = status["versions"]
        assert isinstance(versions, dict)
        said = str(status["reason"]) or ", ".join(f"{k} {v}" for k, v in versions.items())
        table.add_row(name, _mark(status["buildable"]), _mark(status["runnable"]), Text(said))
    screen.print(table)
    gpus = environment["gpus"]
    screen.print(f"\n{environment['cpu']}, {environment['cores']} cores; "
                 f"{len(gpus) if isinstance(gpus, list) else 0} GPUs; Python "
                 f"{environment['python']}")  # fmt: skip
    packages = environment["packages"]
    assert isinstance(packages, dict)
    screen.print(Text(", ".join(f"{k} {v}" for k, v in packages.items()), style="dim"))


def _mark(works: object) -> str:
    return "yes" if works else "no"
