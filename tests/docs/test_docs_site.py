"""Pages hold what the program says: every verb, recipe, figure and message is the program's own."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import pages

import diffc
import diffc_export
import diffc_runtime
from diffc.recipe import recipe_files

DOCS = pages.ROOT / "docs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, pages.ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(pages.ROOT / "scripts")  # as when it is run
    return load("fill_docs")


def test_no_block_of_code_is_empty():
    pages_ = [*DOCS.rglob("*.md"), pages.ROOT / "README.md"]
    empty = [page.name for page in pages_ if re.search(r"^```\w+\n+```$", page.read_text(), re.M)]
    assert len(pages_) > 15 and empty == []


def test_every_verb_is_on_the_page_once(script):
    said = re.findall(r"<!-- verb: (.*?) -->", (DOCS / "verbs.md").read_text())
    assert sorted(said) == sorted(script.commands())


def test_a_verbs_text_is_its_help(script):
    text = script.verb("baseline save")
    command = [sys.executable, "-m", "diffc", "baseline", "save", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert (
        text.strip("`").removeprefix("text\n").strip()
        == done.stdout.replace("python -m diffc", "diffc").strip()
    )
    assert "--figures-only" in text


def test_every_recipe_of_a_model_is_on_the_page():
    text = (DOCS / "models.md").read_text()
    said = set(re.findall(r"<!-- recipe: (.*?) -->", text))
    named = {recipe.name for recipe in recipe_files() if recipe.models}
    assert named | {"pixart", "sd3", "flux", "sana"} <= said
    for recipe in recipe_files():
        for model in recipe.models[:1]:
            assert f"diffc compile {model} " in text, recipe.name


@pytest.mark.slow
@pytest.mark.parametrize("page", pages.PAGES[1:], ids=lambda page: page.name)
def test_a_page_holds_what_the_program_says(script, page):
    text = page.read_text()
    assert script.filled(text) == text, "run scripts/fill_docs.py"
    for line in text.splitlines():
        assert not line.startswith(":::"), "a page is whole without the site"


@pytest.mark.parametrize(
    "mark", ["verb: compil", "planned: sd9", "file: no.txt", "verbs: x", "api: diffc.nothing"]
)
def test_an_unknown_mark_is_an_error(script, mark):
    with pytest.raises((KeyError, OSError)):
        script.filled(f"<!-- {mark} -->\n")


def test_a_filled_page_is_filled_anew(script, tmp_path):
    """What stood there before is replaced, and what the page says after it stays."""
    (tmp_path / "one.yaml").write_text("a: 1\n")
    mark = f"<!-- file: {tmp_path / 'one.yaml'} -->"
    first = script.filled(f"before\n{mark}\nafter\n{mark}\n")
    assert first.count("a: 1") == 2 and "\nafter\n" in first
    (tmp_path / "one.yaml").write_text("b: 2\n")
    second = script.filled(first)
    assert second.count("b: 2") == 2 and "a: 1" not in second and "\nafter\n" in second
    assert script.filled(second) == second


def test_a_mark_inside_a_fence_is_text(script):
    text = "```\n<!-- recipes -->\n```\n"
    assert script.filled(text) == text


def test_the_site_says_why_a_command_was_not_run():
    text = load("site_hook").on_page_markdown("<!-- not run: needs a GPU -->\n```bash\nx\n```\n")
    assert text.startswith("```bash\nx\n```") and "Not run by the tests: needs a GPU." in text


def test_an_object_is_described_by_its_source(script):
    text = script.content("api", "diffc.recipe.sections.prune")
    assert "class PruneSection(RecipeSection):\n    ratio: Fraction = 0.5" in text
    assert "\n- `ratio`: the share to remove, between 0 and 1." in text
    assert "_check_shares" not in text
    text = script.content("api", "diffc.api.compile")
    assert "    ratio: float | None = None,\n" in text
    assert "**Raises**\n\n- `RequestError`: an option is wrong." in text


def test_planned_figures_are_the_results(script):
    models = json.loads((pages.ROOT / "bench" / "results" / "plans.json").read_text())["models"]
    text = script.planned("sdxl")
    assert f"{models['sdxl']['dense']['params'] / 1e9:.2f} B" in text or "2.57 G" in text
    assert set(re.findall(r"<!-- planned: (.*?) -->", (DOCS / "models.md").read_text())) <= set(
        models
    )
    for name, one in models.items():
        for ratio, cost in one["ratios"].items():
            if "refused" not in cost:
                share = cost["macs"] / one["dense"]["macs"]
                assert share == pytest.approx(1 - float(ratio), abs=0.01), name


def test_every_page_is_in_the_menu():
    menu = (pages.ROOT / "mkdocs.yml").read_text().split("nav:")[1]
    found = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert found == set(re.findall(r": (\S+\.md)", menu))


# -- messages ---------------------------------------------------------------------------------


def templates():
    """Every string in diffc, what is filled in shown as an ellipsis."""
    roots = [Path(package.__file__).parent for package in (diffc, diffc_export, diffc_runtime)]
    for path in (path for root in roots for path in root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )


def plain(text):
    return re.sub(r"\s+", " ", text)


MESSAGES = re.findall(r"(?m)^#### `(.*)`$", (DOCS / "troubleshooting.md").read_text())


@pytest.fixture(scope="module")
def said():
    return [plain(text) for text in templates()]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_the_programs(said, message):
    assert any(message in text for text in said)


def test_a_message_that_is_not_would_be_seen(said):
    assert len(MESSAGES) > 30
    assert not any("ratio … is not between 1 and 2" in text for text in said)
