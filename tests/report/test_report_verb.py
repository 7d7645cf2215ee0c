"""diffc report: one run, its page, several runs."""

import json
import subprocess
import sys

import pytest


def diffc(*args):
    return subprocess.run(
        [sys.executable, "-m", "diffc", *map(str, args)], capture_output=True, text=True
    )


def test_the_page_is_written_when_asked_for(out, tmp_path):
    done = diffc("report", out, "--html", tmp_path / "page.html")
    assert done.returncode == 0 and done.stderr == ""
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert not (out / "report.html").exists()


def test_several_are_compared(out, tmp_path):
    done = diffc("report", out, out, "--html", tmp_path / "page.html")
    assert done.returncode == 0 and "SSIM" in done.stdout
    assert "2 runs compared" in (tmp_path / "page.html").read_text()
    done = diffc("report", out, out, "--json")
    assert list(json.loads(done.stdout)["runs"]) == [str(out)]


@pytest.mark.parametrize(
    ("text", "said"), [("", "is no report"), ("{}", "is no report"), ("[1]", "is no report")]
)
def test_a_damaged_report(out, text, said):
    (out / "report.json").write_text(text)
    done = diffc("report", out)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_price_gives_the_cost_of_images(out, tmp_path):
    content = json.loads((out / "report.json").read_text())
    side = content["pipeline"][0]["dense"]
    rate = side.get("images_per_s") or side["throughput_per_s"]
    done = diffc("report", out, "--price", "3.6/h", "--html", tmp_path / "page.html")
    cost = f"{3.6 / 3600 / rate * 1000:.3g}"
    assert "1,000 images at 3.6/h" in done.stdout and cost in done.stdout
    assert cost in (tmp_path / "page.html").read_text()
    assert "1,000 images" not in diffc("report", out).stdout


@pytest.mark.parametrize("price", ["", "0", "-1", "nan", "inf", "cheap", "1/day"])
def test_no_price(out, price):
    done = diffc("report", out, "--price", price)
    assert done.returncode == 2 and "such as 0.71/h" in done.stderr


def test_few_times_have_no_percentile_99(out):
    content = json.loads((out / "report.json").read_text())
    n = content["pipeline"][0]["dense"]["latency_ms"]["n"]
    assert n < 100 and f"  slowest of {n} " in diffc("report", out).stdout


def test_a_damaged_history(out, tmp_path):
    (tmp_path / "h.jsonl").write_text("{}\n")
    done = diffc("report", out, "--history", tmp_path / "h.jsonl")
    assert done.returncode == 2 and "line 1 is damaged" in done.stderr
