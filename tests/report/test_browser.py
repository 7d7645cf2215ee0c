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
    assert pictures and chromium.js("document.images.length") == 2


def test_the_slider_works_by_keyboard(chromium, report, out):
    chromium.size(1200)
    chromium.open(write_html(report, out).as_uri())
    assert (
        chromium.js("getComputedStyle(document.querySelector('.swipe')).getPropertyValue('--cut')")
        == "50%"
    )
    for _ in range(20):
        chromium.press("Tab")
        if chromium.js("document.activeElement.id") == "swipe":
            break
    cut = "document.querySelector('.swipe').style.getPropertyValue('--cut')"
    shown = []
    for key in ("ArrowRight", "Home", "End", "ArrowLeft"):
        chromium.press(key)
        shown.append(chromium.js(cut))
    assert shown == ["51%", "0%", "100%", "99%"]
    assert "99 % dense" in chromium.js("document.activeElement.getAttribute('aria-valuetext')")
    chromium.press("Tab")
    assert chromium.js("document.activeElement.textContent") == "Flip"
    chromium.press("Enter")
    assert chromium.js(cut) == "0%"
    chromium.press("Enter")
    assert chromium.js(cut) == "100%"


def test_the_slider_shows_what_it_says(chromium, report, out):
    """Left of the line the dense picture's red, right of it the compressed one's blue."""
    from io import BytesIO

    from PIL import Image

    chromium.size(1200)
    chromium.open(write_html(report, out).as_uri())
    box = chromium.js("""(() => {
        const swipe = document.querySelector('.swipe');
        swipe.scrollIntoView({block: 'center'});
        const r = swipe.getBoundingClientRect();
        return [r.left, r.top, r.width, r.height];
    })()""")
    picture = Image.open(BytesIO(chromium.picture())).convert("RGB")
    middle = box[1] + box[3] / 2
    left, right = (picture.getpixel((int(box[0] + box[2] * x), int(middle))) for x in (0.25, 0.75))
    assert left == (200, 30, 30) and right == (30, 30, 200)


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
