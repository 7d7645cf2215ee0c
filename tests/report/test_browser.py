"""report.html in a real browser: nothing loaded, no error, works by keyboard and on a phone."""

import json
import subprocess
import sys

import pytest
from support import browser
from support.attacks import ATTACK, hostile

from diffc.report.html import comparison_html, write_html

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.executable() is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_and_fits(chromium, report, out, tmp_path, width, scheme):
    chromium.size(width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.call("Emulation.setEmulatedMedia", features=features)
    url = write_html(report, out).as_uri()
    chromium.open(url)
    assert chromium.problems == []
    assert [r for r in chromium.requests if not r.startswith("data:")] == [url]
    assert chromium.js("document.documentElement.scrollWidth") <= width
    colour = chromium.js("getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    pictures = chromium.js("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert pictures and chromium.js("document.images.length") == 12


def test_no_line_ends_between_a_number_and_its_unit(chromium, report, out):
    """On a phone, where the texts of the boxes are broken most."""
    chromium.size(400)
    chromium.open(write_html(report, out).as_uri())
    broken = """[...document.querySelectorAll('dd, dt')].flatMap(box => {
        const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT), all = []
        for (let node; node = walk.nextNode();)
            for (const one of node.data.matchAll(/\\d\\s(%|ms|s|MB|k)(?!\\w)/g)) {
                const range = document.createRange()
                range.setStart(node, one.index)
                range.setEnd(node, one.index + one[0].length)
                const tops = [...range.getClientRects()].map(line => line.top)
                all.push([one[0], Math.max(...tops) - Math.min(...tops) > 4])
            }
        return all
    })"""
    amounts = chromium.js(broken)
    assert len(amounts) >= 3
    assert [words for words, is_broken in amounts if is_broken] == []


def sheets(out, colours):
    """Four images, as the sample report has, of one colour for each model."""
    from PIL import Image

    for name, colour in colours.items():
        Image.new("RGB", (4 * 64 + 12, 64), colour).save(out / "samples" / f"{name}.png")


def test_dense_and_compressed_change_places_by_keyboard(chromium, report, out):
    """Without a script: a box to tick, and the style does the rest."""
    sheets(out, {"dense": (200, 30, 30), "compressed": (30, 30, 200)})
    chromium.size(1200)
    chromium.open(write_html(report, out).as_uri())
    for _ in range(20):
        chromium.press("Tab")
        if chromium.js("document.activeElement.id") == "flip":
            break
    order = """[...document.querySelectorAll('figure')].map(f => [...f.querySelectorAll('img')]
        .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
        .map(i => i.className).join(''))"""
    assert chromium.js(order) == ["dce"] * 4
    chromium.press(" ")
    assert chromium.js(order) == ["cde"] * 4
    chromium.press(" ")
    assert chromium.js(order) == ["dce"] * 4
    assert chromium.problems == []


def test_all_is_there_on_paper(chromium, report, out):
    sheets(out, {"dense": (200, 30, 30), "compressed": (30, 30, 200)})
    chromium.size(794)
    chromium.open(write_html(report, out).as_uri())
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.js("getComputedStyle(document.querySelector('.flip')).display") == "none"
    assert chromium.js("document.documentElement.scrollWidth") <= 794
    assert chromium.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    chromium.call("Emulation.setEmulatedMedia", media="")


def test_nothing_hostile_runs(chromium, hostile_report, out, tmp_path):
    chromium.open(write_html(hostile_report, out).as_uri())
    assert chromium.js("typeof window.pwned") == "undefined"
    assert chromium.problems == []
    page = tmp_path / "comparison.html"
    page.write_text(comparison_html([("<script>window.pwned=3</script>", hostile_report)] * 2))
    chromium.open(page.as_uri())
    assert chromium.js("typeof window.pwned") == "undefined" and chromium.problems == []


def test_a_report_json_written_by_hand_runs_nothing(chromium, content, tmp_path):
    """From the file on disk, through the verb, to the browser: a script in every string."""
    folder = tmp_path / "OUT"
    folder.mkdir()
    bad = hostile(content)
    (folder / "report.json").write_text(json.dumps(bad))
    row = {"created": ATTACK, "fingerprint": ATTACK, "model": ATTACK, "target": ATTACK,
           "precision": ATTACK, "batch": 1, "p50_ms": 2.0, "n": 3, "peak_bytes": 1,
           "engine_bytes": 1, "ssim": 0.5, "verdict": ATTACK, "source": ATTACK}  # fmt: skip
    (folder / "history.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    for arguments in ([folder, "--history", folder / "history.jsonl"], [folder, folder]):
        page = tmp_path / "page.html"
        command = [sys.executable, "-m", "diffc", "report", *arguments, "--html", page]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        chromium.open(page.as_uri())
        assert chromium.js("typeof window.pwned") == "undefined"
        assert chromium.problems == []
        assert "window.pwned" in chromium.js("document.body.textContent")


def test_the_test_would_see_a_script_run(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<script>window.pwned = 1; console.error('x'); fetch('http://127.0.0.1:9/')</script>"
    )
    chromium.open(page.as_uri())
    assert chromium.js("window.pwned") == 1
    assert chromium.problems and any("127.0.0.1" in r for r in chromium.requests)
