"""A check for machines and people: Markdown, JUnit, annotation lines, a badge.

JSON (result.py) is the source of truth; each of these is made from it alone. Names and paths come
from the user's side and are escaped for the format they go into.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from diffc.gate.result import CheckResult, Figure, SelfComparison
from diffc.report.markdown import escape as escape_markdown
from diffc.report.units import milliseconds, size

WORDS = {
    "pass": "pass",
    "regressed": "REGRESSED",
    "inconclusive": "inconclusive",
    "unfit": "machine unfit",
    "absent": "not measured",
    "reported": "",
}
_IN_PAIRS = (
    "change and 99 %: over pairs of calls in turn, which decides; baseline and candidate: the "
    "times of each side alone, so that these can differ the other way"
)
_ANNOTATIONS = 5
_LEVELS = {"regressed": "error", "unfit": "warning", "inconclusive": "warning"}


def headline(result: CheckResult) -> str:
    """One line: the verdict and what it is about."""
    counted = [figure for figure in result.figures if figure.verdict not in ("reported", "absent")]
    if result.verdict == "pass":
        left = f" ({len(result.absent)} not measured)" if result.absent else ""
        return f"pass: {len(counted)} figures within their limits{left}"
    worst = [f for f in result.worst if f.verdict == result.verdict]
    more = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
    return f"{WORDS[result.verdict]}: {sentence(worst[0])}{more}"


def sentence(figure: Figure) -> str:
    """One figure in words: 'ort-cpu fp32 batch 1, latency p50: 5.2 ms -> 5.8 ms, ...'."""
    where = place(figure)
    name = f"{where}, {figure.name}" if where else figure.name
    values = [value_words(figure, v) for v in (figure.baseline, figure.candidate) if v is not None]
    details = (
        " -> ".join(values),
        f"{change(figure)} {interval(figure)}".strip(),
        f"limit {figure.limit}" if figure.limit else "",
        figure.note,
    )
    return f"{name}: " + ", ".join(part for part in details if part)


def place(figure: Figure | SelfComparison) -> str:
    """'ort-cpu fp32 batch 1'."""
    words = [figure.target, figure.precision]
    if figure.batch is not None:
        words.append(f"batch {figure.batch}")
    return " ".join(word for word in words if word)


def value_words(figure: Figure, value: float | None) -> str:
    """A value in its unit."""
    if value is None:
        return "-"
    if figure.unit == "ms":
        return milliseconds(value)
    if figure.unit == "bytes":
        return size(value)
    return f"{value:.3g} {figure.unit}".rstrip()


def change(figure: Figure) -> str:
    """'+10.2 %'; empty without a ratio."""
    return "" if figure.ratio is None else f"{(figure.ratio - 1) * 100:+.1f} %"


def interval(figure: Figure) -> str:
    """'[+9.1, +11.3]' per cent; empty without one."""
    if figure.ci99 is None:
        return ""
    low, high = ((bound - 1) * 100 for bound in figure.ci99)
    return f"[{low:+.1f}, {high:+.1f}]"


def cells(figure: Figure) -> tuple[str, ...]:
    """Baseline, candidate, change, interval, limit, verdict: a table's row after its name."""
    values = (value_words(figure, figure.baseline), value_words(figure, figure.candidate))
    return (*values, change(figure), interval(figure), figure.limit or "", WORDS[figure.verdict])


def said_below(result: CheckResult) -> list[str]:
    """The sentences under the table: what a change is of, the noise, what is absent, notes."""
    paired = any(figure.pairs for figure in result.figures) and not result.weaker
    noted = (figure for figure in result.figures if figure.note and figure.verdict != "regressed")
    noise = [noise_line(one, result) for one in result.noise]
    return [*[_IN_PAIRS] * paired, *noise, *map(sentence, noted), *result.notes]


def noise_line(noise: SelfComparison, result: CheckResult) -> str:
    """The least difference that this machine shows, in words.

    The engine is the candidate where the baseline is stored figures, else the baseline.
    """
    engine = "candidate" if result.weaker else "baseline"
    low, high = ((bound - 1) * 100 for bound in noise.ci99)
    fit = "fit" if noise.verdict == "pass" else "UNFIT"
    return (
        f"{place(noise)}: the {engine} against itself differs by {(noise.ratio - 1) * 100:+.1f} % "
        f"[{low:+.1f}, {high:+.1f}] over {noise.pairs} pairs, p90/p50 {noise.spread:.2f}: {fit}"
    )


def to_markdown(result: CheckResult) -> str:
    """The check as Markdown, for a CI's summary page."""
    lines = [f"## diffc check: {escape_markdown(headline(result))}", ""]
    lines += ["| | figure | baseline | candidate | change | 99 % | limit | verdict |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---|"]
    for figure in result.figures:
        row = (place(figure), figure.name, *cells(figure))
        lines.append(f"| {' | '.join(map(escape_markdown, row))} |")
    lines += ["", *(f"{escape_markdown(note)}  " for note in said_below(result))]
    sides = (("candidate", result.candidate), ("baseline", result.baseline))
    lines += ["", *(f"{name}: {escape_markdown(s.path)} ({s.kind})  " for name, s in sides)]
    machine = f"{result.environment['cpu']}, {result.environment['cores']} cores"
    return "\n".join([*lines, f"on {escape_markdown(machine)}, {result.seconds:.0f} s", ""])


def to_junit(result: CheckResult) -> str:
    """One case per engine, batch and figure; inconclusive and unfit ones are skipped."""
    cases = [_case(f, result) for f in result.figures if f.verdict not in ("reported", "absent")]
    failures = sum(figure.verdict == "regressed" for figure in result.figures)
    skipped = sum(figure.verdict in ("inconclusive", "unfit") for figure in result.figures)
    head = (
        f'<testsuite name="diffc check" tests="{len(cases)}" failures="{failures}" '
        f'skipped="{skipped}" errors="0" time="{result.seconds:.3f}" '
        f"timestamp={quoteattr(result.created)}>"
    )
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>", ""])


def _case(figure: Figure, result: CheckResult) -> str:
    name = quoteattr(f"{place(figure)}: {figure.name}")
    start = f"  <testcase classname={quoteattr(f'diffc.{figure.target}')} name={name}"
    said = quoteattr(_printable(sentence(figure)))
    if figure.verdict == "regressed":
        body = escape(_printable(f"{sentence(figure)}\nbaseline {result.baseline.path}"))
        return f"{start}><failure message={said}>{body}</failure></testcase>"
    if figure.verdict != "pass":
        return f"{start}><skipped message={said}/></testcase>"
    return f"{start}/>"


def _printable(text: str) -> str:
    """The text without the control characters that XML cannot hold."""
    return "".join(sign for sign in text if sign in "\n\t" or ord(sign) >= 32)


def annotation_lines(result: CheckResult, *, github: bool) -> list[str]:
    """A line for each of the worst few; in GitHub's workflow commands when ``github``."""
    lines = []
    for figure in result.worst[:_ANNOTATIONS]:
        level, said = _LEVELS[figure.verdict], sentence(figure)
        if github:
            title = _command_value(f"diffc check: {WORDS[figure.verdict]}")
            lines.append(f"::{level} title={title}::{_command_data(said)}")
        else:
            lines.append(f"{level}: {said}".replace("\n", " "))
    return lines


def _command_data(text: str) -> str:
    """Escaped as GitHub's workflow commands want their message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _command_value(text: str) -> str:
    return _command_data(text).replace(":", "%3A").replace(",", "%2C")


_COLOURS = {
    "pass": "#2b7a3d",
    "regressed": "#b3261e",
    "inconclusive": "#8a6100",
    "unfit": "#5f6368",
}


def badge(result: CheckResult) -> str:
    """An SVG badge: 'latency' and the change of the worst median, or the verdict."""
    ratios = [f.ratio for f in result.figures if f.name == "latency p50" and f.ratio is not None]
    said = WORDS[result.verdict].lower()
    if ratios:
        said += f" {(max(ratios) - 1) * 100:+.1f} %"
    left, right = 7 * len("latency") + 10, 7 * len(said) + 10
    colour = _COLOURS[result.verdict]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f"aria-label={quoteattr(f'latency: {said}')}>"
        f"<title>{escape(f'latency: {said}')}</title>"
        f'<rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,sans-serif" '
        f'font-size="11"><text x="{left / 2:g}" y="14">latency</text>'
        f'<text x="{left + right / 2:g}" y="14">{escape(said)}</text></g></svg>\n'
    )
