"""Served figures in every rendering."""

from pathlib import Path

from diffc.measure.results import Served
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.sections import serving

SAMPLE = Path(__file__).parent / "sample.json"


def one(side: str, ms: float, **more) -> Served:
    latency = {"p50": ms * 1.1, "p90": ms, "p95": ms, "p99": ms, "mean": ms, "n": 50}
    level = {"concurrency": 4, "requests": 50, "errors": 0, "seconds": 5.0,
             "throughput_per_s": 1e3 / ms, "latency_ms": latency}  # fmt: skip
    return Served(target="ort-cpu", side=side, server="triton", client="tritonclient grpc",
                  steps=20, in_process_ms=ms, levels=[level], overhead=1.1, **more)  # fmt: skip


def test_rows_put_dense_beside_compressed():
    sides = serving.by_target([one("dense", 100.0), one("compressed", 50.0)])["ort-cpu"]
    assert serving.rows(sides) == [
        ("an image in process", "100 ms", "50 ms", "2.00x as fast"),
        ("4 clients: latency, p50", "110 ms", "55 ms", "2.00x as fast"),
        ("4 clients: images per second", "10.00", "20.00", "2.00x as fast"),
        ("server over in process, 1 client", "1.10", "1.10", ""),
    ]
    assert serving.notes(sides) == ["timed by tritonclient grpc, one image a request; 0 errors"]


def test_every_rendering_has_them():
    report = Report.read(SAMPLE)
    report.served = [one("dense", 100.0), one("compressed", 50.0)]
    for text in (to_markdown(report), to_html(report)):
        assert "Through Triton on ort-cpu, 20 steps" in text and "4 clients" in text


def test_what_is_absent_says_why():
    absent = [Served(target="trt", side=side, server="triton", steps=20, absent="no tritonserver")
              for side in ("dense", "compressed")]  # fmt: skip
    sides = serving.by_target(absent)["trt"]
    assert serving.notes(sides) == ["not measured: no tritonserver"]
    assert serving.rows(sides)[0] == ("an image in process", "-", "-", "")
