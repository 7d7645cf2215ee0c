"""docs/images/demo-chart.svg from the committed report of a demo run.

python scripts/readme_chart.py
"""

from __future__ import annotations

from pathlib import Path

from diffc.report.markup import Html, tag
from diffc.report.model import Report

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "bench" / "results" / "demo-run.json"
PICTURE = ROOT / "docs" / "images" / "demo-chart.svg"
WIDTH, HEIGHT, LABEL, BAR = 720, 112, 190, 30
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1a1d21 }
.dense { fill: #8d99a6 } .compressed { fill: #0a5fb4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaed } .dense { fill: #78838f } .compressed { fill: #6db1f5 }
}
"""


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(Report.read(REPORT)), "utf-8")


def draw(report: Report) -> str:
    """Return the chart: the time of one image with each engine."""
    image = report.pipeline[0]
    assert image.dense.latency_ms and image.compressed.latency_ms
    times = {"dense": image.dense.latency_ms.p50, "compressed": image.compressed.latency_ms.p50}
    longest = max(times.values())
    bars = [_bar(row, name, ms, ms / longest) for row, (name, ms) in enumerate(times.items())]
    words = f"milliseconds for one image: dense {times['dense']:.0f}, "
    words += f"compressed {times['compressed']:.0f}"
    return (
        tag(
            "svg",
            tag("title", words),
            Html(f"<style>{STYLE}</style>"),
            *[part for bar in bars for part in bar],
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            width=WIDTH,
            height=HEIGHT,
            role="img",
        )
        + "\n"
    )


def _bar(row: int, name: str, ms: float, share: float) -> list[Html]:
    top = 14 + row * (BAR + 18)
    length = share * (WIDTH - LABEL - 90)
    middle = top + BAR / 2 + 5
    return [
        tag("text", f"{name} engine", x=LABEL - 12, y=middle, text_anchor="end"),
        tag("rect", x=LABEL, y=top, width=length, height=BAR, rx=4, class_=name),
        tag("text", f"{ms:.0f} ms", x=LABEL + length + 10, y=middle),
    ]


if __name__ == "__main__":
    main()
