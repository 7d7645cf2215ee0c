"""The verdict: the first line of a report, and the last line of a run."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from support.reports import find_part, notes_of, rows_of

from diffc.measure.anchors import Anchor, Anchors, Estimated
from diffc.measure.results import MachineNoise, Speedup
from diffc.report import terminal
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.report.model import Report
from diffc.report.sections.headline import _facts
from diffc.report.speed import product
from diffc.report.verdict import summary, verdict, verdicts

DEMO_RUN = Path(__file__).parent / "older.json"
EACH = [0.95, 0.99, 0.71, 0.91]


@pytest.fixture
def demo():
    """The committed run of the demo, whose samples have the SSIM of every pair."""
    report = Report.read(DEMO_RUN)
    report.quality["ssim"] |= {"mean": sum(EACH) / 4, "each": EACH, "n": 4}
    return report


def measured(median, low, high):
    return Speedup(median=median, ci95=(low, high), ci99=(low, high), pairs=9)


def anchor(kind, steps, values):
    mean = Estimated(mean=sum(values) / len(values))
    return Anchor(kind=kind, steps=steps, n=len(values), ssim=mean, worst=min(values))


def with_anchors(report, dense, ahead):
    report.anchors = [
        Anchors(
            target="ort-cpu",
            steps=50,
            rows=[
                anchor("same-time", 28, dense),
                anchor("fewer-steps", 45, [0.99, 0.98]),
                anchor("other-seed", 50, [0.2, 0.3]),
            ],
            ahead=Estimated(mean=sum(ahead) / 2, ci95=ahead),
        )
    ]
    return report


def test_faster_and_close(demo):
    one = verdict(demo)
    assert one.kind == "close" and one.advice == ""
    assert one.words.startswith("FASTER AND CLOSE TO DENSE: one image 1.76x as fast on ort-cpu")
    assert one.words.endswith("SSIM 0.890, worst of 4 0.710")


def test_far_says_what_to_do(demo):
    demo.quality["ssim"]["mean"] = 0.55
    one = verdict(demo)
    assert one.kind == "far" and "FAR FROM DENSE" in one.words and "SSIM 0.550" in one.words
    assert "--distill-steps" in one.advice and "--ratio" in one.advice


@pytest.mark.parametrize(
    ("ahead", "kind"), [((-0.05, -0.02), "behind"), ((-0.05, 0.01), "close"), ((0.1, 0.2), "close")]
)
def test_fewer_dense_steps_in_the_same_time(demo, ahead, kind):
    """Behind only where the difference is more than the choice of images explains."""
    one = verdict(with_anchors(demo, [0.96, 0.97], ahead))
    assert one.kind == kind
    if kind == "behind":
        assert one.words.startswith("BEHIND THE DENSE MODEL WITH FEWER STEPS: 28 dense steps")
        assert "SSIM 0.965" in one.words and "28 steps" in one.advice


@pytest.mark.parametrize(
    ("ratio", "kind"),
    [
        ((1.28, 0.79, 2.06), "no speed-up"),
        ((0.8, 0.75, 0.85), "slower"),
        ((1.3, 1.2, 1.4), "close"),
    ],
)
def test_the_image_decides_and_not_the_step(demo, ratio, kind):
    demo.pipeline[0].speedup = measured(*ratio)
    assert verdict(demo).kind == kind
    demo.pipeline[0].speedup = None
    assert "one step 1.76x as fast" in verdict(demo).words


def test_what_was_not_measured_is_no_success(demo):
    demo.quality = None
    assert verdict(demo).kind == "unjudged"
    demo.targets = [r for r in demo.targets if r.absent]
    demo.pipeline = [r for r in demo.pipeline if r.absent]
    one = verdict(demo)
    assert (
        one.kind == "untimed" and "no NVIDIA GPU here" in one.words and "-49.9 % MACs" in one.words
    )
    demo.compressed = None
    assert verdict(demo).kind == "dense"


def test_every_target_has_a_verdict(demo):
    other = demo.pipeline[0].model_copy(update={"target": "openvino"})
    other.speedup = measured(1.0, 0.9, 1.1)
    demo.pipeline.append(other)
    assert [one.kind for one in verdicts(demo)] == ["close", "no speed-up"]
    assert "NO SPEED-UP SHOWN: one image" in to_markdown(demo)


def test_the_verdict_is_first_and_the_summary_last(demo):
    screen = io.StringIO()
    terminal.show(demo, Console(file=screen, width=200))
    lines = [line for line in screen.getvalue().splitlines() if line]
    assert lines[0] == verdict(demo).words and lines[-1] == summary(demo)
    assert to_markdown(demo).replace("\\", "").startswith(f"# {verdict(demo).words}\n")
    assert f"<h1>{verdict(demo).words}</h1>" in to_html(demo)


def test_the_worst_images_are_named(demo):
    part = "Compressed against dense samples"
    assert ("image 3", "0.710") in rows_of(find_part(demo, part))
    demo.quality["prompts"] = ["a red fox", "a boat", "x" * 90, "a tree"]
    rows = rows_of(find_part(demo, part))
    assert rows.index((f"image 3: {'x' * 57}...", "0.710")) < rows.index(
        ("image 4: a tree", "0.910")
    )


def test_the_scale_stands_beside_the_figure(demo):
    with_anchors(demo, [0.96, 0.97], (-0.05, -0.02))
    rows = {row[0]: row for row in rows_of(find_part(demo, "Compressed against dense samples"))}
    assert rows["SSIM, dense in the same time: 28 steps"][1] == "0.965"
    assert rows["SSIM, dense with 45 steps"][1] == "0.985"
    assert rows["SSIM, dense from other noise"][1] == "0.250"


def test_both_loops_are_named_where_they_differ(demo):
    ours = {"steps": 8, "sampler": "dpm++", "guidance": 1.0}
    demo.pipeline[0].details |= ours | {"reference": dict(ours)}
    assert "ne image (8 steps, DPM-Solver++)" in to_markdown(demo).replace("\\", "")
    demo.pipeline[0].details |= {"reference": {"steps": 50, "sampler": "ddim", "guidance": 7.0}}
    words = "ne image: dense (50 steps, DDIM, guidance 7), compressed (8 steps, DPM-Solver++)"
    text = to_markdown(demo).replace("\\", "")
    assert words in text and "one image 1.76x as fast" in text
    (row,) = [fact for fact in _facts(demo) if fact.name.startswith("one image on")]
    assert row.name == "one image on ort-cpu, compressed (8 steps, DPM-Solver++)"
    assert row.remark.startswith("dense (50 steps, DDIM, guidance 7) ")


def test_samples_name_both_loops_where_they_differ(demo):
    for figure in (demo.quality["ssim"], demo.quality["psnr"]):
        figure |= {"loop": "dpm++:8", "sampler": "dpm++", "steps": 8, "reference_loop": "ddim:50"}
    words = "from the same noise, 8 steps, DPM-Solver++; dense 50 steps, DDIM"
    assert words in to_markdown(demo).replace("\\", "")


def test_the_ladder_and_the_step_have_one_figure(demo):
    """What pruning gives is written once: the ladder's own timing of it is not shown beside it."""
    step = next(r for r in demo.targets if r.speedup is not None)
    own = demo.ladders[0].rungs[-1].over_previous
    assert f"{own.median:.2f}" != f"{step.speedup.median:.2f}"
    rows = rows_of(find_part(demo, "Where the speed-up comes from"))
    assert rows[-1][1] == f"{step.speedup.median:.2f}x pruning"
    in_all = float(rows[-1][2].split("x")[0])
    assert in_all == pytest.approx(float(rows[-2][2].split("x")[0]) * step.speedup.median, abs=0.01)
    assert f"{own.median:.2f}x pruning" not in to_html(demo)
    assert "not timed again" in to_markdown(demo)
    step.speedup = None
    rows = rows_of(find_part(demo, "Where the speed-up comes from"))
    assert rows[-1][1] == f"{own.median:.2f}x pruning"


def test_a_product_of_ratios_has_the_interval_of_both():
    """Against draws: log-normal errors of two independent ratios."""
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(2, 400_000))
    a, b = 2.0 * np.exp(0.03 * draws[0]), 1.5 * np.exp(0.04 * draws[1])
    ends = [tuple(np.quantile(x, (0.025, 0.975))) for x in (a, b, a * b)]
    both = product(
        Speedup(median=2.0, ci95=ends[0], ci99=ends[0], pairs=5),
        Speedup(median=1.5, ci95=ends[1], ci99=ends[1], pairs=9),
    )
    assert both.median == 3.0 and both.pairs == 5
    assert both.ci95 == pytest.approx(ends[2], rel=2e-3)


def test_the_interval_says_that_it_is_of_this_run(demo):
    rows = rows_of(find_part(demo, "One image ("))
    assert [row[0] for row in rows if row[3].startswith("95 %")] == ["  within this run"]


def test_with_guidance_a_step_is_one_of_two_runs(demo):
    assert not any("guidance" in note for note in notes_of(find_part(demo, "One step on")))
    demo.pipeline[0].details |= {"guidance": 7.0}
    assert any("runs the network twice" in n for n in notes_of(find_part(demo, "One step on")))


def test_an_older_report_is_read(tmp_path):
    content = json.loads(DEMO_RUN.read_text())
    assert content["schema_version"] == 1 and "anchors" not in content
    assert Report.read(DEMO_RUN).anchors == []


@pytest.mark.parametrize(("noise", "told"), [({"load": 9.0}, True), ({"load": 1.0}, False),
                                             ({"steady": None}, False)])  # fmt: skip
def test_other_work_beside_the_measurement_stands_below_the_verdict(demo, noise, told):
    quiet = {"against_itself": None, "load": None, "gpu_busy": None, "steady": True, "cores": 2}
    for result in (*demo.pipeline, *demo.targets):
        result.noise = MachineNoise.model_validate({**quiet, **noise})
    words = "other work ran while this was measured"
    assert (words in to_markdown(demo)) == (words in to_html(demo)) == told
