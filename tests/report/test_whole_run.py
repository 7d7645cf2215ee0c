"""What a whole run leaves: the page beside the report, with its own samples."""


def test_a_run_leaves_its_page(compiled):
    out, report, _ = compiled
    text = (out / "report.html").read_text("utf-8")
    assert "cannot be shown" not in text and 'id="flip"' in text
    assert f"{report.targets[0].speedup.median:.2f}x" in text
    assert len(text) < 3_000_000
