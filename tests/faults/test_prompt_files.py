"""How a file of prompts is read, and what is said of one that cannot be."""

from __future__ import annotations

import pytest
from support.pipelines import save_ddpm, save_sd
from support.runs import refusal

from diffc.data.prompts import read_prompts
from diffc.errors import InputError


def prompts(tmp_path, data: bytes) -> list[str]:
    path = tmp_path / "p.txt"
    path.write_bytes(data)
    return read_prompts(path)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"\xef\xbb\xbfa red cat\r\n\r\na blue dog\r\n", ["a red cat", "a blue dog"]),
        (b"one\n\xef\xbb\xbftwo\n", ["one", "two"]),  # two marked files, one after the other
        ("a\u2028b\nc\u0085d\x0ce\n".encode(), ["a\u2028b", "c\u0085d\x0ce"]),
        (b"\n \t\nlast without an end", ["last without an end"]),
        ("\u00e9t\u00e9 \U0001f600\n".encode(), ["\u00e9t\u00e9 \U0001f600"]),
    ],
)
def test_lines_end_at_line_feeds_alone(tmp_path, data, lines):
    assert prompts(tmp_path, data) == lines


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a cat\n".encode("utf-16"), "is UTF-16 text"),
        ("a cat\n".encode("utf-32"), "is UTF-32 text"),
        ("a cat\n".encode("utf-16-le"), "holds zero bytes"),
        (b"one\n\xe9t\xe9\n", "line 2 of"),
        (b"", "there are no prompts"),
        (b"\xef\xbb\xbf\r\n", "there are no prompts"),
    ],
)
def test_other_files_are_one_line_and_a_hint(tmp_path, data, words):
    with pytest.raises(InputError, match=words) as caught:
        prompts(tmp_path, data)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_file_that_is_not_there_names_its_own_flag(tmp_path):
    model = save_sd(tmp_path / "sd")
    missing = str(tmp_path / "nofile.txt")
    error = refusal(model, tmp_path / "o", data={"prompts": missing})
    assert str(error) == f"--prompts: there is nothing at '{missing}'"
    error = refusal(model, tmp_path / "o", data={"prompts": str(tmp_path)})
    assert str(error) == f"--prompts: '{tmp_path}' is a folder"
    assert not (tmp_path / "o").exists()


def test_prompts_beside_a_file_of_conditions_are_refused(tmp_path):
    from safetensors.numpy import save_file

    model = save_ddpm(tmp_path / "m")
    (tmp_path / "p.txt").write_text("a cat\n")
    save_file({}, tmp_path / "c.safetensors")
    given = {"prompts": str(tmp_path / "p.txt"), "source": str(tmp_path / "c.safetensors")}
    assert "prompts were given as well" in str(refusal(model, tmp_path / "o", data=given))
