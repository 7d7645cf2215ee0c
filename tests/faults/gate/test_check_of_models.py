"""diffc check refuses sides that were made from different models."""

from __future__ import annotations

import json
import shutil

import pytest
from support.gate_folders import (
    DIGEST,
    FAST,
    edit,
    make_engine,
)


def another(tmp_path, output, **changes):
    """A copy of OUT that is of another model."""
    other = tmp_path / "other"
    shutil.copytree(output, other)
    lock = (other / "recipe.lock.yaml").read_text()
    (other / "recipe.lock.yaml").write_text(lock.replace(DIGEST, "e" * 64))
    edit(other / "report.json", lambda report: report.update(digest="e" * 64, **changes))
    return other


@pytest.mark.parametrize("given", ["report.json", "", "engines/fake/compressed"])
def test_another_model_is_refused_whichever_way_it_is_given(run, out, output, tmp_path, given,
                                                            measured):  # fmt: skip
    other = another(tmp_path, output)
    flags = ["--baseline"] if given.startswith("engines") else ["--baseline-report"]
    for flag in [*flags, *(["--baseline"] if not given else [])]:
        code, _, err = run("check", out, flag, other / given, *FAST)
        assert code == 4 and "different models" in err
    code, _, _ = run("check", other / "engines/fake/compressed", "--baseline", out, *FAST)
    assert code == 4
    assert not measured


def test_a_report_carries_the_digest_wherever_it_lies(run, out, output, tmp_path):
    other = another(tmp_path, output)
    copied = tmp_path / "elsewhere.json"
    shutil.copyfile(other / "report.json", copied)
    assert run("check", out, "--baseline-report", copied, *FAST)[0] == 4


def test_an_old_report_beside_its_lock_is_known_by_that(run, out, output, tmp_path):
    other = another(tmp_path, output)
    edit(other / "report.json", lambda report: report.pop("digest"))
    assert run("check", out, "--baseline-report", other / "report.json", *FAST)[0] == 4


def test_an_old_report_alone_is_judged_with_a_note(run, out, tmp_path):
    copied = tmp_path / "elsewhere.json"
    shutil.copyfile(out / "report.json", copied)
    edit(copied, lambda report: report.pop("digest", None))
    code, said, _ = run("check", out, "--baseline-report", copied, *FAST, "--json")
    assert code == 0
    assert any("elsewhere.json does not say which model" in n for n in json.loads(said)["notes"])
    edit(copied, lambda report: report["model"].update(class_name="DiTTransformer2DModel"))
    code, _, err = run("check", out, "--baseline-report", copied, *FAST)
    assert code == 4 and "DiTTransformer2DModel" in err


def test_engines_without_a_model_beside_them_are_judged_with_a_note(run, tmp_path):
    one, two = make_engine(tmp_path / "a"), make_engine(tmp_path / "b")
    code, said, _ = run("check", one, "--baseline", two, *FAST, "--json")
    assert code == 0
    assert "is not known" in json.loads(said)["notes"][0]
