"""What was said of the data and on the way is in the terminal's report and in Markdown."""

from diffc.report.lines import sections
from diffc.report.markdown import to_markdown


def test_notes_of_data_and_distillation_stand_below_the_model(report) -> None:
    report.data = {"origin": "3 images from faces", "notes": ["3 images used, 1 unreadable"]}
    report.distillation = {"notes": ["no curve of quality: no image"]}
    assert sections(report)[0].notes == [
        "data: 3 images from faces", "3 images used, 1 unreadable", "no curve of quality: no image"
    ]  # fmt: skip
    assert "3 images used, 1 unreadable" in to_markdown(report)
