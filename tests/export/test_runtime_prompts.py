"""Prompts in the runtime: tokens as transformers makes them, conditions, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import tiny_text

from diffc.models.components import Component
from diffc.models.texts.tokenizers import convert_tokenizer
from diffc_runtime import BadRequest, Input, Pipeline, UnfitEngine
from diffc_runtime.prompt_plan import (
    FIXED_FILE,
    PLAN_FILE,
    EncoderUse,
    GuidanceInput,
    Piece,
    PromptPlan,
    TokenizerFacts,
    plan_from,
)
from diffc_runtime.prompts import (
    PromptEncoder,
    guidance_value,
    open_prompts,
    put_together,
    read_fixed,
    read_plan,
)
from diffc_runtime.tokens import Tokenizer

LENGTH = 12
USE = EncoderUse("tokenizer", LENGTH, masked=True)
CONDITIONS = {
    "encoder_hidden_states": [[Piece("text_encoder", "last")]],
    "encoder_attention_mask": [[Piece("text_encoder", "mask")]],
}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A folder with a tokenizer of single letters: vocab.json and merges.txt, as CLIP's."""
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    tiny_text.tokenizer(folder).save_pretrained(folder)
    for extra in ("tokenizer.json",):
        (folder / extra).unlink(missing_ok=True)
    part = Component("tokenizer", "transformers", "CLIPTokenizer", folder)
    converted = convert_tokenizer(part)
    (folder / converted.facts.file).write_text(converted.content)
    return folder


FACTS = TokenizerFacts("tokenizer.json", pad_id=1)


def encoder(words: Path, **changes) -> PromptEncoder:
    """Every token becomes a pair of numbers; no engine is needed."""
    plan = PromptPlan({"text_encoder": USE}, CONDITIONS, tokenizers={"tokenizer": FACTS}, **changes)

    def call(inputs):
        ids = inputs["input_ids"].astype(np.float32)
        return {"last": np.stack([ids, -ids], axis=-1)}

    return PromptEncoder(plan, words, lambda name: call)


def pipeline(prompts: PromptEncoder | None, **options) -> Pipeline:
    """Its images are the means of their texts."""

    def denoise(inputs):
        mean = inputs["encoder_hidden_states"][..., 0].mean(axis=1).reshape(-1, 1, 1, 1) / 100
        return inputs["sample"] * 0 + mean

    inputs = [
        Input("sample", (1, 4, 4), kind="sample"),
        Input("timestep", (), "int64", "timestep"),
        Input("encoder_hidden_states", (LENGTH, 2)),
        Input("encoder_attention_mask", (LENGTH,), "int64"),
    ]
    return Pipeline(
        denoise, {"_class_name": "DDIMScheduler", "clip_sample": False}, (1, 4, 4),
        inputs=inputs, prompts=prompts, **options,
    )  # fmt: skip


# Tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a red cat", "", "  Spaces  and CAPITALS ", "h\u00e9 \u732b \U0001f642", "x" * 40]
)
@pytest.mark.parametrize("length", [77, LENGTH])
def test_tokens_are_those_of_transformers(words, text, length):
    from transformers import CLIPTokenizer

    own = Tokenizer(words, FACTS)([text], length, length)
    expected = CLIPTokenizer.from_pretrained(words)(
        [text], padding="max_length", max_length=length, truncation=True, return_tensors="np"
    )
    assert np.array_equal(own.ids, expected.input_ids)
    assert np.array_equal(own.mask, expected.attention_mask)


def test_a_long_prompt_is_cut_and_the_rest_is_named(words):
    with pytest.warns(UserWarning, match=r"longer than the 12 tokens .*: 'pqrst' is left out"):
        encoder(words).encode(["abcdefghij pqrst"])


def test_a_prompt_that_fits_gives_no_note(words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(words).encode(["abcdefghij"])


def test_one_thread_at_a_time_encodes_prompts(words):
    """All share what is remembered, and a tokenizer; there are more texts than are remembered."""
    inside = []

    def open_slowly(name):
        def call(inputs):
            inside.append(name)
            time.sleep(0.001)
            assert len(inside) == 1, "two threads at once"
            inside.clear()
            return {"last": np.repeat(inputs["input_ids"][..., None], 2, axis=-1)}

        return call

    shared = encoder(words)
    shared.open_encoder = open_slowly
    texts = [a + b for a in "abcdefgh" for b in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda text: shared.encode([text]), texts))
    for text, row in zip(texts, rows, strict=True):
        ids = Tokenizer(words, FACTS)([text], LENGTH, LENGTH).ids
        assert np.array_equal(row["encoder_hidden_states"][..., 0], ids)


def test_padding_and_cutting_at_the_other_side(words):
    left = Tokenizer(words, TokenizerFacts("tokenizer.json", 1, pad_left=True, cut_left=True))
    tokens = left(["abc"], LENGTH, LENGTH)
    assert tokens.mask.tolist() == [[0] * 7 + [1] * 5]
    assert left(["abcdefghijklmnop"], 4, LENGTH).notes


@pytest.mark.parametrize(
    ("text", "reason"), [("\ud800", "no text in Unicode"), ("a \udc00 b", "no text in Unicode")]
)
def test_half_a_surrogate_pair_is_refused(words, text, reason):
    with pytest.raises(BadRequest, match=reason):
        encoder(words).encode([text])


def test_a_missing_or_damaged_tokenizer_is_one_line(words, tmp_path):
    missing = encoder(tmp_path)
    with pytest.raises(UnfitEngine, match=r"tokenizer\.json is missing"):
        missing.encode(["a"])
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UnfitEngine, match=r"tokenizer\.json is damaged"):
        encoder(tmp_path).encode(["a"])


def test_without_the_package_one_line_says_what_to_install(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UnfitEngine, match="pip install tokenizers"):
        encoder(words).encode(["a"])


# Conditions ---------------------------------------------------------------------------------------


def test_a_prefix_stands_before_prompts_and_the_first_and_last_rows_are_kept(words):
    prompts = encoder(words)
    use = EncoderUse("tokenizer", 6, prefix="abc", prefix_tokens=5)
    plan = PromptPlan({"text_encoder": use}, CONDITIONS, tokenizers={"tokenizer": FACTS})
    prompts = PromptEncoder(plan, words, prompts.open_encoder)
    assert use.sequence == 9
    rows = prompts.encode(["de"])["encoder_hidden_states"][0, :, 0]
    whole = Tokenizer(words, FACTS)(["abcde"], 9, 9).ids[0]
    assert rows.tolist() == [whole[0], *whole[-5:]]
    none = prompts.encode(["de"], negative=True)["encoder_hidden_states"][0, :, 0]
    assert none.tolist() == Tokenizer(words, FACTS)(["de"], 6, 6).ids[0].tolist()


def test_the_rows_of_padding_become_zeros_where_the_plan_says_so(words):
    use = EncoderUse("tokenizer", LENGTH, masked=True, zero_padding=True)
    base = encoder(words)
    plan = PromptPlan({"text_encoder": use}, CONDITIONS, tokenizers={"tokenizer": FACTS})
    row = PromptEncoder(plan, words, base.open_encoder).encode(["ab"])
    assert np.abs(row["encoder_hidden_states"][0, 4:]).max() == 0
    assert np.abs(base.encode(["ab"])["encoder_hidden_states"][0, 4:]).min() > 0


def test_pieces_lie_side_by_side_and_one_after_the_other():
    outputs = {("a", "x"): np.ones((2, 3, 4)), ("b", "x"): 2 * np.ones((2, 3, 1))}
    rows = [[Piece("a", "x"), Piece("b", "x")], [Piece("", "zeros", (2, 8))]]
    whole = put_together(rows, outputs)
    assert whole.shape == (2, 5, 8)
    assert whole[0, 0].tolist() == [1, 1, 1, 1, 2, 0, 0, 0] and not whole[:, 3:].any()


def test_a_scale_becomes_the_input_of_guidance():
    from diffc.data.conditions import guidance_embedding

    assert guidance_value(GuidanceInput("guidance", factor=0.5), 7.0) == 3.5
    waves = guidance_value(GuidanceInput("w", "sinusoids", width=9), 7.5)
    assert np.allclose(waves, guidance_embedding(6.5, 9).numpy(), atol=1e-4)


# Calls --------------------------------------------------------------------------------------------


def test_images_of_several_prompts_come_prompt_by_prompt(words):
    pipe = pipeline(encoder(words))
    options = {"num_inference_steps": 2, "seed": 3}
    both = pipe.sample(["aaa", "zzz"], num_images_per_prompt=2, **options)
    assert both.shape == (4, 1, 4, 4)
    rows = encoder(words).encode(["aaa", "zzz"])["encoder_hidden_states"]
    four = pipe.sample(
        encoder_hidden_states=np.repeat(rows, 2, axis=0),
        encoder_attention_mask=np.ones((4, LENGTH), np.int64), **options,
    )  # fmt: skip
    assert np.array_equal(both, four)
    assert np.abs(both[0] - pipe.sample("zzz", **options)[0]).max() > 1e-3


def test_generator_is_the_seed_and_n_the_number_of_each(words):
    pipe = pipeline(encoder(words))
    a = pipe.sample("a", generator=7, n=2, num_inference_steps=2)
    b = pipe.sample("a", seed=7, num_images_per_prompt=2, num_inference_steps=2)
    assert np.array_equal(a, b)


def test_each_of_several_prompts_may_have_its_mask_of_one_image(words):
    """diffusers repeats the image too."""
    pipe, image = pipeline(encoder(words)), np.full((4, 4), 200, np.uint8)
    masks = [np.tri(4, dtype=bool), np.eye(4, dtype=bool)]
    how = {"n": 2, "num_inference_steps": 2, "seed": 1}
    repeated = pipe.sample(["aaa", "zzz"], image=image, mask_image=masks, **how)
    images, each = [image] * 4, [masks[0], masks[0], masks[1], masks[1]]
    whole = pipe.sample(["aaa", "zzz"], image=images, mask_image=each, **how)
    np.testing.assert_array_equal(repeated, whole)
    with pytest.raises(BadRequest, match="mask_image has 3 images, and 4 are made"):
        pipe.sample(["aaa", "zzz"], image=image, mask_image=each[:3], **how)


def test_guidance_leads_away_from_the_negative_prompt(words):
    pipe = pipeline(encoder(words))
    options = {"num_inference_steps": 2, "seed": 1, "guidance_scale": 3.0}
    empty = pipe.sample("cat", **options)
    assert np.array_equal(empty, pipe.sample("cat", "", **options))
    other = pipe.sample("cat", "zzzz", **options)
    assert np.abs(other - empty).max() > 1e-3
    two = pipe.sample(["cat", "cat"], ["", "zzzz"], **options)
    zeros = pipeline(encoder(words, negative="zeros")).sample("cat", **options)
    assert np.abs(zeros - empty).max() > 1e-3
    alone = pipe.sample("cat", num_images_per_prompt=2, **options)
    assert np.array_equal(two[0], alone[0]) and np.abs(two[1] - alone[1]).max() > 1e-3


@pytest.mark.parametrize("scale", [0, 0.5])
def test_less_than_1_is_no_guidance_as_in_diffusers(words, scale):
    """Turbo models' cards say guidance_scale=0.0, which was an image of no prompt at all."""
    pipe, options = pipeline(encoder(words)), {"num_inference_steps": 2, "seed": 1}
    without = pipe.sample("cat", guidance_scale=1, **options)
    assert np.array_equal(pipe.sample("cat", guidance_scale=scale, **options), without)
    given, zeros = (
        {
            "encoder_hidden_states": np.full((LENGTH, 2), value, np.float32),
            "encoder_attention_mask": np.ones(LENGTH, np.int64),
        }
        for value in (3, 0)
    )
    images = [
        pipe.generate(1, 2, 1, guidance=one, conditions=given, unconditional=zeros)
        for one in (scale, 1)
    ]
    assert np.array_equal(*images)


def test_a_negative_prompt_without_guidance_is_noted(words):
    with pytest.warns(UserWarning, match="negative_prompt has no effect without guidance"):
        pipeline(encoder(words)).sample("a", "b", guidance_scale=1.0, num_inference_steps=2)


def test_a_model_with_guidance_as_an_input_gets_the_scale_there(words):
    seen = []

    def denoise(inputs):
        seen.append((len(inputs["sample"]), float(inputs["guidance"][0])))
        return inputs["sample"]

    inputs = [*pipeline(None).inputs, Input("guidance", ())]
    prompts = encoder(words, guidance=GuidanceInput("guidance"))
    prompts.fixed = {"guidance": np.float32(3.5)}
    pipe = Pipeline(
        denoise, {"_class_name": "DDIMScheduler"}, (1, 4, 4), inputs=inputs, prompts=prompts
    )
    pipe.sample("a", num_inference_steps=1)
    pipe.sample("a", num_inference_steps=1, guidance_scale=5)
    assert seen == [(1, 3.5), (1, 5.0)]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"prompt": 3}, r"prompt is a text or a list of texts, not 3"),
        ({"prompt": ["a", None]}, "prompt is a text or a list of texts"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": b"a"}, "prompt is a text or a list of texts"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "has 1 texts and prompt 2"),
        ({"prompt": "a", "negative_prompt": ["c", "d"]}, "has 2 texts and prompt 1"),
        ({"prompt": "a", "negative_prompt": 7}, "negative_prompt is a text or a list of texts"),
        ({"negative_prompt": "a"}, "negative_prompt needs a prompt"),
        ({"prompt": "a", "height": 8}, "not built for 8: it makes images of height 4 and width 4"),
        ({"prompt": "a", "height": 4, "width": 8}, "not built for 4 x 8: .* height 4 and width 4"),
        ({"prompt": "a", "generator": object()}, "seed must be a whole number, not a object"),
        ({"prompt": "a", "generator": True}, "or seed must be a whole number, not a bool"),
        ({"prompt": "a", "generator": 1, "seed": 2}, "generator and seed mean the same"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "must be a whole number from 1"),
        ({"prompt": "a", "num_images_per_prompt": 2, "n": 3}, "mean the same"),
        ({"prompt": "a", "colour": 3}, "unknown condition 'colour'"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused_in_one_line(words, given, reason):
    with pytest.raises(BadRequest, match=reason) as refusal:
        pipeline(encoder(words)).sample(**{"num_inference_steps": 1, **given})
    assert "\n" not in str(refusal.value)


def test_the_right_size_is_taken(words):
    samples = pipeline(encoder(words)).sample("a", height=4, width=4, num_inference_steps=1)
    assert samples.shape == (1, 1, 4, 4)


def test_conditions_that_say_the_size_follow_it(words):
    """SDXL's ids; PixArt-alpha's size and ratio; and latents, whose size is their own."""
    seen = []

    def denoise(inputs):
        seen.append({name: value[0].tolist() for name, value in inputs.items() if value.size < 9})
        return inputs["sample"]

    fixed = {"time_ids": [4, 4, 0, 0, 4, 4], "resolution": [4, 4], "aspect_ratio": [1]}
    sample = Input("sample", (2, 4, 4), kind="sample", sizes=((4, 4), (4, 8)))
    inputs = [sample, *pipeline(None).inputs[1:]]
    inputs += [Input(name, (len(value),)) for name, value in fixed.items()]
    prompts = encoder(words)
    prompts.fixed = {name: np.array(value, np.float32) for name, value in fixed.items()}
    pipe = Pipeline(
        denoise, {"_class_name": "DDIMScheduler"}, (2, 4, 4), inputs=inputs, prompts=prompts
    )
    for width in (4, 8):
        assert pipe.sample("a", width=width, num_inference_steps=1).shape == (1, 2, 4, width)
    ids = [4, 8, 0, 0, 4, 8]
    assert [one["time_ids"] for one in seen] == [fixed["time_ids"], ids]
    assert [one["resolution"] for one in seen] == [[4, 4], [4, 8]]
    assert [one["aspect_ratio"] for one in seen] == [[1], [0.5]]
    with pytest.raises(BadRequest, match="it makes latents of height 4 and width 4, or"):
        pipe.sample("a", height=8)


def test_a_model_without_text_encoders_says_what_it_takes():
    with pytest.raises(BadRequest, match="no text encoders here; the model takes encoder_hidden"):
        pipeline(None).sample("a cat")
    plain = Pipeline(lambda inputs: inputs["sample"], {"_class_name": "DDIMScheduler"}, (1, 4, 4))
    with pytest.raises(BadRequest, match="this model takes none"):
        plain.sample("a cat")


# The folder ---------------------------------------------------------------------------------------


def test_a_plan_comes_back_from_its_file(words, tmp_path):
    plan = encoder(words, guidance=GuidanceInput("guidance", factor=2.0), prepare="lower").plan
    (tmp_path / PLAN_FILE).write_text(json.dumps(plan.to_json()))
    again = read_plan(tmp_path)
    assert json.dumps(again.to_json()) == json.dumps(plan.to_json())
    assert again.parts_of("text_encoder") == ("last",)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 9}', '{"format": 1}', '{"format": 1, "guidance": 3}']
)
def test_a_damaged_plan_is_one_line(tmp_path, text):
    (tmp_path / PLAN_FILE).write_text(text)
    with pytest.raises(UnfitEngine, match=r"text\.json is (damaged|not of format)"):
        read_plan(tmp_path)


@pytest.mark.parametrize("share", [0, 0.5])
def test_damaged_conditions_of_every_prompt_are_one_line(tmp_path, share):
    np.savez(tmp_path / FIXED_FILE, time_ids=np.zeros(6))
    whole = (tmp_path / FIXED_FILE).read_bytes()
    (tmp_path / FIXED_FILE).write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(UnfitEngine, match=r"fixed\.npz is damaged"):
        read_fixed(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizers": {}}, "it has no tokenizer 'tokenizer'"),
        ({"encoders": {}}, "it has no text encoder 'text_encoder'"),
        ({"prepare": "zzz"}, "'zzz' is no way to prepare a text"),
        (
            {"encoders": {"text_encoder": {"tokenizer": "tokenizer", "length": "12"}}},
            "length is no",
        ),
    ],
)
def test_a_plan_that_names_what_is_not_there_is_one_line(words, tmp_path, changes, says):
    content = {**encoder(words).plan.to_json(), **changes}
    (tmp_path / PLAN_FILE).write_text(json.dumps(content))
    with pytest.raises(UnfitEngine, match=rf"text\.json is damaged.*{says}"):
        read_plan(tmp_path)


def test_a_piece_that_no_encoder_gives_is_one_line(words):
    prompts = encoder(words)
    rows = {"encoder_hidden_states": [[Piece("text_encoder", "pooled")]]}
    prompts.plan = PromptPlan(prompts.plan.encoders, rows, tokenizers=prompts.plan.tokenizers)
    with pytest.raises(UnfitEngine, match="text encoder text_encoder gives no 'pooled'"):
        prompts.encode(["a"])


def test_a_folder_without_a_plan_or_an_engine_has_no_prompts(words, tmp_path):
    assert open_prompts(tmp_path, {}) is None
    (tmp_path / PLAN_FILE).write_text(json.dumps(encoder(words).plan.to_json()))
    assert open_prompts(tmp_path, {}) is None
    assert plan_from(encoder(words).plan.to_json(), "x").encoders == {"text_encoder": USE}


def test_prompts_need_neither_torch_nor_transformers(words):
    code = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from diffc_runtime.prompt_plan import TokenizerFacts\n"
        "from diffc_runtime.tokens import Tokenizer\n"
        "import diffc_runtime.prompts, diffc_runtime.bundles\n"
        f"Tokenizer(Path({str(words)!r}), TokenizerFacts('tokenizer.json', 1))(['a cat'], 9, 9)\n"
        "print(sorted({'torch', 'transformers', 'diffusers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
