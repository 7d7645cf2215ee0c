"""What a module of another package prints at import: stdout is for answers alone."""

import pytest
from support.distributions import install

from diffc_export.discovery import entry_points, load

NOISY = "print('the toy says hello')\n"


@pytest.mark.parametrize("group", ["targets", "families", "scores", "metrics", "sections"])
@pytest.mark.parametrize("rest", ["TOY = 3\n", "raise OSError('libtoy.so is missing')\n"])
def test_it_goes_to_stderr(group, rest, monkeypatch, tmp_path, capsys):
    points = f"[diffc.{group}]\nnoisy-toy = noisy_toy\n"
    install(monkeypatch, tmp_path / "toys", "noisy-toys", {"noisy_toy": NOISY + rest}, points)
    (point,) = [one for one in entry_points(f"diffc.{group}") if one.name == "noisy-toy"]
    thing, why = load(point, "TOY")
    assert (thing, why) in [(3, ""), (None, "OSError: libtoy.so is missing")]
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "the toy says hello\n"


def test_targets_scores_and_families_load_so(monkeypatch, tmp_path, capsys):
    from diffc.models.families import broken_families
    from diffc.prune.importance import broken_scores
    from diffc_export.targets import problems

    groups = ("targets", "families", "scores")
    points = "".join(f"[diffc.{group}]\nnoisy-{group} = noisy_{group}\n" for group in groups)
    modules = {f"noisy_{group}": NOISY for group in groups}
    install(monkeypatch, tmp_path / "toys", "noisy-toys", modules, points)
    assert "noisy-targets" in problems() and "noisy-scores" in broken_scores()
    assert "noisy-families" in broken_families()
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("hello") == 3
