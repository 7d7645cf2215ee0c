"""report.html: whole, without a network, escaped, and honest about what is absent."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from diffc.report import terminal
from diffc.report.html import comparison_html, to_html, write_html
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.pictures import STRENGTH, embed, picture_pairs
from diffc.report.sections import parts
from diffc.report.sections.headline import headline

DEMO_RUN = Path(__file__).parent / "older.json"


class Page(HTMLParser):
    """Tags, their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in ("meta", "img", "input", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)

    def titles(self):
        return re.findall(r"<h2>(.*?)</h2>", self.raw)


def page(text):
    found = Page(text)
    found.raw = text
    assert found.open == []
    return found


def test_every_section_is_there(report, out):
    titles = page(to_html(report, out)).titles()
    assert titles == [
        "One image (2 steps, DDPM) on ort-cpu, fp32",
        "Compressed against dense samples",
        "demo (UNet2DModel)",
        "One step on ort-cpu, fp32, batch 1",
        "Where the speed-up comes from: ort-cpu, fp32, batch 1",
        "What was cut, and what came of it",
        "Widths, layer by layer",
        "Importance: which timesteps count",
        "Distillation",
        "Stages",
        "Measured on",
        "Reproduce",
        "What to do next",
    ]


def test_the_three_renderings_show_the_same_parts(report, out):
    """The terminal names in a line what it has no room for; pictures are HTML's alone."""
    screen = io.StringIO()
    terminal.show(report, Console(file=screen, width=200))
    titles = page(to_html(report, out)).titles()
    assert titles == [part.title for part in parts(report)[1:]]
    markdown = re.findall("^## (.*)$", to_markdown(report), re.M)
    assert [title.replace("\\", "") for title in markdown] == titles
    for title in titles:
        assert title in screen.getvalue() or title[:1].lower() + title[1:] in screen.getvalue()


def test_memory_stands_with_the_engine_it_is_of(out):
    report = Report.read(DEMO_RUN)
    text = to_html(report, out).split("<h2>One step on ort-cpu")[1].split("<section>")[0]
    for name in ("engine file", "weights, in memory", "activations", "peak of the whole process"):
        assert name in text
    assert text.count('class="bar"') >= 4


def test_files_and_memory_say_what_they_hold(report, out):
    """The same weights are fp16 on disk, fp32 in the engine, and laid out anew in memory."""
    assert "8.89 MB |" in to_markdown(report)
    dense = report.model.model_copy(update={"dtype": "fp16"})
    text = to_markdown(report.model_copy(update={"model": dense}))
    assert "| weights on disk | 8.89 MB fp16 | 3.11 MB | -65.0 % |" in text
    note = "weights take more memory than the engine's file"
    assert note not in text
    assert note in to_markdown(Report.read(DEMO_RUN))


def test_the_figures_are_the_reports(report, out):
    text = to_html(report, out).replace("\N{NO-BREAK SPACE}", " ")
    for shown in ("1.90x", "-50.0 %", "0.569", "23.9 ms", "T = 0.05", "diffc compile demo"):
        assert shown in text
    assert "cannot be shown" not in text


def test_it_is_one_small_file_that_loads_nothing(report, out):
    path = write_html(report, out)
    assert path == out / "report.html" and path.stat().st_size < 3_000_000
    found = page(path.read_text())
    links = [a.get("src") or a.get("href") or "data:" for _, a in found.tags]
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import|https?:", found.raw)


def test_the_page_has_no_script_and_allows_none(report, out):
    text = to_html(report, out)
    policy = next(a["content"] for n, a in page(text).tags if a.get("http-equiv"))
    inside = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert "<script" not in text
    assert not any("style" in a or any(k.startswith("on") for k in a) for _, a in page(text).tags)


def test_hostile_strings_are_only_text(hostile_report, report, out):
    text, usual = to_html(hostile_report, out), to_html(report, out)
    attacked, before = page(text), page(usual)

    def names(found):
        return [n for n, _ in found.tags if n in ("script", "img", "title", "style")]

    assert names(attacked) == names(before)
    assert not any("onerror" in a for _, a in attacked.tags)
    assert "cannot be shown" not in text
    assert "window.pwned" in "".join(attacked.text)


def test_a_hostile_history_and_comparison(hostile_report, out):
    names = ["created", "fingerprint", "model", "target", "precision", "verdict", "source", "batch"]
    row = dict.fromkeys(names, "<script>") | {"p50_ms": 3.0}
    text = to_html(hostile_report, out, [row, row, {**row, "p50_ms": None}])
    assert "<script>" not in text and "Latency over time" in text
    text = comparison_html([("<script>", hostile_report), ("b", hostile_report)])
    assert "<script>" not in text and "2 runs compared" in text


@pytest.mark.parametrize("part", ["plan", "distillation", "quality", "environment"])
def test_a_part_that_makes_no_sense_does_not_break_the_rest(content, out, part):
    content[part] = {"groups": 3, "losses": [1], "ssim": {"mean": 0.5}, "why": {"importance": {
        "curve": {"t": "x"}}}}  # fmt: skip
    try:
        text = to_html(Report.model_validate(content), out)
    except (KeyError, TypeError):
        pytest.fail("a part written by hand broke the page")
    assert "cannot be shown" in text and "<h2>Stages</h2>" in text


def test_what_is_absent_is_not_drawn(content, tmp_path):
    for key in ("plan", "distillation", "quality", "environment", "command"):
        content[key] = None
    for key in ("targets", "pipeline", "stages", "ladders"):
        content[key] = []
    titles = page(to_html(Report.model_validate(content), tmp_path)).titles()
    assert titles == ["demo (UNet2DModel)", "What was cut, and what came of it", "What to do next"]
    content["compressed"] = None
    text = to_html(Report.model_validate(content), tmp_path)
    assert page(text).titles() == ["demo (UNet2DModel)"]


def test_charts_have_a_name_and_a_table(report, out):
    found = page(to_html(report, out))
    charts = [a for n, a in found.tags if n == "svg" and a["class"] == "chart"]
    assert len(charts) == 5 and all(
        a["role"] == "img" and "table" in a["aria-label"] for a in charts
    )
    assert found.raw.count("<table") >= len(charts)
    assert all("alt" in a for n, a in found.tags if n == "img")


def test_the_ladder_has_every_rung_and_its_factor(report, out):
    ladder = report.ladders[0]
    text = to_html(report, out).split("Where the speed-up comes from")[1].split("<section>")[0]
    for rung in ladder.rungs:
        assert rung.label in text
    assert f"{ladder.rungs[1].over_previous.median:.2f}x engine" in text
    assert "noise of the machine" in text
    assert "<h2>What was cut" in to_html(report, out)


def test_a_rung_that_did_not_run_is_told_with_its_reason(content, out):
    rung = content["ladders"][0]["rungs"][0]
    rung |= {"latency_ms": None, "absent": "torch is <not> installed"}
    text = to_html(Report.model_validate(content), out)
    assert f"{rung['label']}: not measured: torch is &lt;not&gt; installed." in text
    for rung in content["ladders"][0]["rungs"]:
        rung |= {"latency_ms": None, "absent": "no"}
    assert "cannot be shown" not in to_html(Report.model_validate(content), out)


def test_noise_threads_and_the_percentile_rule_are_said(content, report, out):
    assert "dense against itself 95 %" in to_html(report, out)
    assert "sorted[max(n - 1" in to_html(report, out)
    content["targets"][0]["details"]["pinned_to_cores"] = [0, 2]
    assert "on cores 0, 2." in to_html(Report.model_validate(content), out)


def test_the_clock_and_cuda_graphs_are_said(content, out):
    def told(**details):
        content["targets"][0]["details"] = details
        return to_html(Report.model_validate(content), out)

    assert "Timed by GPU events. The calls are CUDA graphs." in told(
        timed_by="GPU events", captured=True
    )
    assert "No CUDA graph was captured: shapes vary. " in told(
        captured=False, not_captured="shapes vary"
    )


def test_what_was_said_of_the_data_is_there_as_text(content, out):
    content["data"] = {"origin": "images of a folder", "notes": ["3 files skipped: <b>.txt"]}
    page = to_html(Report.model_validate(content), out)
    assert "clean samples: images of a folder." in page
    assert "3 files skipped: &lt;b&gt;.txt" in page
    content["data"]["notes"] = []
    assert "clean samples" not in to_html(Report.model_validate(content), out)


def test_a_large_picture_is_made_small(tmp_path):
    import os

    noise = Image.frombytes("RGB", (1500, 1500), os.urandom(1500 * 1500 * 3))
    noise.save(tmp_path / "large.png")
    text = embed(tmp_path / "large.png")
    assert text.startswith("data:image/jpeg") and len(text) < 1_300_000


def sheets_of(out, values, cell=(6, 5)):
    """Sheets of two images; ``values``: the grey of each, by model."""
    width, height = cell
    for name, greys in values.items():
        sheet = Image.new("RGB", (2 * width + 4, height), "white")
        for index, grey in enumerate(greys):
            sheet.paste((grey,) * 3, (index * (width + 4), 0, index * (width + 4) + width, height))
        sheet.save(out / "samples" / f"{name}.png")
    return [out / "samples" / f"{name}.png" for name in ("dense", "compressed")]


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def test_sheets_are_cut_into_images_with_their_difference(out):
    paths = sheets_of(out, {"dense": (100, 200), "compressed": (110, 20)})
    pairs = list(picture_pairs(*paths, 2))
    for pair, dense, compressed in zip(pairs, (100, 200), (110, 20), strict=True):
        difference = min(255, STRENGTH * abs(dense - compressed))
        for uri, grey in ((pair.dense, dense), (pair.compressed, compressed),
                          (pair.difference, difference)):  # fmt: skip
            picture = opened(uri)
            assert picture.size == (6, 5)
            assert picture.getextrema() == ((grey, grey),) * 3


@pytest.mark.parametrize("images", [0, 3, 5])
def test_sheets_of_another_layout_are_not_cut(out, images):
    paths = sheets_of(out, {"dense": (1, 2), "compressed": (3, 4)})
    assert list(picture_pairs(*paths, images)) == []


def test_sheets_of_two_sizes_are_not_cut(out):
    first, second = sheets_of(out, {"dense": (1, 2), "compressed": (3, 4)})
    Image.new("RGB", (30, 5)).save(second)
    assert list(picture_pairs(first, second, 2)) == []


def test_an_image_stands_with_its_figure_and_its_prompt(content, out):
    sheets_of(out, {"dense": (100, 200), "compressed": (110, 20)})
    ssim = content["quality"]["ssim"]
    ssim |= {"n": 2, "each": [0.9, 0.25]}
    content["quality"]["prompts"] = ["a cat", "a <b> dog"]
    text = to_html(Report.model_validate(content), out)
    first, second = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert first == "<b>1</b><span>SSIM 0.900</span><span>a cat</span>"
    assert second == "<b>2</b><span>SSIM 0.250</span><span>a &lt;b&gt; dog</span>"
    assert text.count("<img") == 6 and 'alt="image 2, difference"' in text


def test_what_was_built_and_not_measured_is_one_line(content, out):
    row = json.loads(json.dumps(content["targets"][0]))
    row |= {"target": "trt-rtx", "speedup": None, "absent": "no <GPU> here", "efficiency": None}
    content["targets"].append(row)
    text = to_html(Report.model_validate(content), out)
    part = text.split("<h2>Built, and not measured here</h2>")[1].split("</section>")[0]
    assert part.count("<p") == 1 and "<table" not in part and "no &lt;GPU&gt; here; engine" in part
    assert "diffc bench OUT --target trt-rtx" in text and "--target ort-cpu --to service" in text


def test_the_grid_alone_is_enough(report, out):
    Image.new("RGB", (40, 20)).save(out / "samples" / "grid.png")
    (out / "samples" / "dense.png").unlink()
    text = to_html(report, out)
    assert "dense above, compressed below" in text and "<figure" not in text


def test_unlike_machines_are_said_in_a_comparison(content, report):
    content["environment"]["fingerprint"] = "other"
    text = comparison_html([("a", report), ("b", Report.model_validate(content))])
    assert "different machines or versions: their times cannot be compared" in text
    assert "different machines" not in comparison_html([("a", report), ("b", report)])


def test_a_run_that_was_not_measured_is_of_no_machine(content, report):
    content["environment"], content["targets"], content["pipeline"] = None, [], []
    other = Report.model_validate(content)
    assert "different machines" not in comparison_html([("a", report), ("b", other)])


def test_the_pareto_marks_the_unbeaten(content):
    for result in content["targets"]:
        result["noise"] |= {"steady": True, "load": 0.1}
    report = Report.model_validate(content)
    worse = json.loads(json.dumps(content))
    worse["targets"][0]["compressed"]["latency_ms"]["p50"] *= 2
    text = comparison_html([("good", report), ("bad", Report.model_validate(worse))])
    rows = re.findall(r"<th scope=\"row\">(\d\. \w+).*?</tr>", text)
    cells = {name: "yes" in row for name, row in
             re.findall(r"<th scope=\"row\">\d\. (\w+)(.*?)</tr>", text)}  # fmt: skip
    assert len(rows) == 2 and cells == {"good": True, "bad": False}


def test_resolutions_are_in_the_titles_where_there_are_several(report):
    one = report.targets[0]
    place = f"One step on {one.target}, {one.precision}, batch {one.batch}"
    assert place in [part.title for part in parts(report)]
    sized = [one.model_copy(update={"resolution": size}) for size in ((16, 16), (24, 32))]
    several = report.model_copy(update={"targets": sized, "pipeline": []})
    titles = [part.title for part in parts(several)]
    assert [f"{place}, 16x16", f"{place}, 24x32"] == [t for t in titles if t.startswith(place)]
    assert f"## {place}, 24x32" in to_markdown(several)
    text = to_html(several)
    for title in (f"{place}, 16x16", f"{place}, 24x32"):
        assert f"<h2>{title}</h2>" in text
    assert "24x32" not in headline(several) and "16x16" in headline(several)
    assert Report.model_validate_json(several.model_dump_json()) == several
