"""diffc search: goals in, the loop that reaches them out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffc.cli.command import Command, command_line, takes
from diffc.errors import RequestError

if TYPE_CHECKING:
    from diffc.trials.results import SearchResult


@takes(
    *("model", "max_latency", "speedup", "goal_memory", "goal_ssim", "max_distance"),
    *("workers", "search_ratio", "search_cut", "search_precision", "search_loop"),
    *("lora", "target", "batch", "threads", "torch"),
    *("data", "prompts", "guidance", "reference_loop", "images", "repair"),
    *("distill_steps", "block_steps", "distill_rank"),
    *("distill_of_search", "search_out", "recipe", "seed", "ratio_of", "allocate", "rounding"),
    *("importance", "threshold", "image_fit", "resolution", "gpu", "explain", "frontier", "family"),
    *("memory", "allow_pickle", "replace", "json", "quiet"),
    goes_on=True,
)
def search_(
    command: Command,
    ratio: list[str] | None,
    cut: list[str] | None,
    precision: list[str] | None,
    loop: list[str] | None,
    force: bool,
    workers: str | None,
    **goals: str | None,
) -> None:
    """Find the loop that reaches the goals, and leave its run in OUT.

    \b
      diffc search demo --min-ssim 0.85
      diffc search demo --max-latency 30ms --max-memory 500MB
      diffc search demo --speedup 8 --min-ssim 0.8 --ratio 0.3,0.5 --loop own:4
      diffc search ./my-ddpm --max-distance 1.2 --data ./images
      diffc search demo --speedup 60 --distill-for loop --loop own:2,own:1

    With --min-ssim or --max-distance the fastest loop wins that reaches every goal, otherwise
    the one that is closest to the dense model. Times need no training, so all are measured first;
    then only what can still win is trained. The same command goes on where it was stopped. OUT is
    the winner's, as diffc compile leaves it: for bundle, bench, generate, report.
    """
    from diffc.cli.run import resolve_command
    from diffc.cli.show import follow
    from diffc.launch import is_launched
    from diffc.output import default_out
    from diffc.trials.goals import for_any_loop, read_goals
    from diffc.trials.request import SearchRequest
    from diffc.trials.running import GoalsMissed, search

    if is_launched():
        raise RequestError("search runs its trials itself: start it as one process")
    wanted = read_goals(goals)
    options = for_any_loop(command.options, command.recipe)
    source, recipe, _ = resolve_command(replace(command, options=options))
    named = {"ratio": ratio, "cut": cut, "precision": precision, "loop": loop}
    values = {axis: words or [] for axis, words in named.items()}
    out = command.out or default_out(command.model, "search")
    request = SearchRequest(source, recipe, wanted, values, out, force, command_line(), workers)
    try:
        result = follow(search(request), quiet=command.silent)
    except GoalsMissed as missed:
        _show(missed.result, command)
        raise
    _show(result, command)


def _show(result: SearchResult, command: Command) -> None:
    """Print the search on stdout, as JSON or as tables."""
    from diffc.cli.show import answers, write_answer

    if command.json:
        write_answer(result.model_dump_json(indent=1))
        return
    if command.quiet:
        return
    from diffc.report.tables import print_whole
    from diffc.report.terminal import show_part
    from diffc.trials.showing import parts, summary

    screen = answers()
    for part in parts(result):
        show_part(part.title, part.blocks, screen)
    if words := summary(result):
        screen.print()
        print_whole(screen, words, style="bold")
