"""Prompts to the denoiser's conditions: tokenizers, text encoders, and how they are put together.

    prompts = open_prompts(Path("text"), {"text_encoder": Path("text_encoder")})
    rows = prompts.encode(["a red sneaker"])         {"encoder_hidden_states": (1, 77, 768)}

Which encoder gives what is the plan's (prompt_plan.py). Nothing is opened before the first prompt.
"""

from __future__ import annotations

import html
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np

from .array_files import DAMAGE
from .engines import Engine, open_engine
from .errors import UnfitEngine
from .json_types import JsonObject
from .pipeline import smallest_batch
from .prompt_plan import (
    FIXED_FILE,
    MASK,
    PLAN_FILE,
    ZEROS,
    EncoderUse,
    GuidanceInput,
    Piece,
    PromptPlan,
    plan_from,
)
from .tokens import Tokenizer, Tokens
from .values import Array

EncoderCall = Callable[[dict[str, Array]], Mapping[str, Array]]
"""A text encoder: input_ids (B, L), and attention_mask if it is masked -> its outputs by name."""

_REMEMBERED = 32
_NULL = "null."
_ENCODING = Lock()
"""One thread at a time: tokenizers keep the length of a call, and all share what is remembered."""


def _lower(text: str) -> str:
    """As PixArt and Sana prepare a prompt."""
    return text.lower().strip()


def _plain(text: str) -> str:
    """As Wan prepares a prompt: no HTML entities, single spaces."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


PREPARE: Mapping[str, Callable[[str], str]] = {"": str, "lower": _lower, "plain": _plain}
"""What is done with a prompt's text before it is split into tokens."""


@dataclass
class PromptEncoder:
    """The text encoders of a pipeline.

    Args:
        plan: How prompts become conditions.
        folder: Where the tokenizers' files lie.
        open_encoder: Opens a text encoder by its name.
        fixed: The conditions that every prompt shares, name -> (...).
        fixed_null: Those of them that the empty prompt has otherwise.
    """

    plan: PromptPlan
    folder: Path
    open_encoder: Callable[[str], EncoderCall]
    fixed: Mapping[str, Array] = field(default_factory=dict)
    fixed_null: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows: dict[tuple[str, bool], dict[str, Array]] = {}
        self._notes: dict[tuple[str, bool], tuple[str, ...]] = {}

    @cached_property
    def tokenizers(self) -> Mapping[str, Tokenizer]:
        """The tokenizers by their names in the pipeline."""
        return {name: Tokenizer(self.folder, one) for name, one in self.plan.tokenizers.items()}

    @cached_property
    def encoders(self) -> Mapping[str, EncoderCall]:
        """The text encoders by their names in the pipeline."""
        return {name: self.open_encoder(name) for name in self.plan.encoders}

    def encode(self, prompts: Sequence[str], *, negative: bool = False) -> dict[str, Array]:
        """Return the conditions of prompts, name -> (N, ...); each text is encoded once.

        A prompt that is cut gives a warning that names what is left out.

        Args:
            prompts: N texts.
            negative: True for what guidance leads away from: no prefix stands before it.

        Raises:
            BadRequest: A text is no Unicode.
            UnfitEngine: A tokenizer or an encoder cannot be opened here.
        """
        wanted = [(text, negative) for text in prompts]
        with _ENCODING:
            rows, notes = self._rows_of(wanted, negative)
        for note in notes:
            warnings.warn(note, stacklevel=4)
        return rows

    def _rows_of(
        self, wanted: Sequence[tuple[str, bool]], negative: bool
    ) -> tuple[dict[str, Array], list[str]]:
        """Return the conditions of ``wanted``, name -> (N, ...), and the notes about them."""
        new = [text for text, _ in dict.fromkeys(wanted) if (text, negative) not in self._rows]
        for text in new:
            self._rows[text, negative] = self._encode_one(text, negative)
        notes = list(dict.fromkeys(n for key in wanted for n in self._notes.get(key, ())))
        names = self.plan.conditions
        rows = {n: np.concatenate([self._rows[key][n] for key in wanted]) for n in names}
        while len(self._rows) > _REMEMBERED:
            oldest = next(iter(self._rows))
            del self._rows[oldest], self._notes[oldest]
        return rows, notes

    def zeros(self, n: int) -> dict[str, Array]:
        """Return what stands for no negative prompt where the plan says zeros, name -> (n, ...)."""
        rows = self.encode([""], negative=True)
        return {name: np.zeros((n, *row.shape[1:]), row.dtype) for name, row in rows.items()}

    def none(self, n: int) -> dict[str, Array]:
        """Return the conditions of ``n`` images without a negative prompt, name -> (n, ...)."""
        if self.plan.negative == ZEROS:
            return self.zeros(n)
        return self.encode([""] * n, negative=True)

    def _encode_one(self, text: str, negative: bool) -> dict[str, Array]:
        prepared = PREPARE[self.plan.prepare](text)
        outputs: dict[tuple[str, str], Array] = {}
        for name, use in self.plan.encoders.items():
            tokens = self._tokens(use, prepared, negative)
            self._notes[text, negative] = (*self._notes.get((text, negative), ()), *tokens.notes)
            for part, value in self._outputs(name, use, tokens, negative).items():
                outputs[name, part] = value
        self._notes[text, negative] = tuple(dict.fromkeys(self._notes[text, negative]))
        return {name: put_together(rows, outputs) for name, rows in self.plan.conditions.items()}

    def _tokens(self, use: EncoderUse, text: str, negative: bool) -> Tokens:
        most = use.length if negative else use.sequence
        whole = text if negative else use.prefix + text
        return self.tokenizers[use.tokenizer]([whole], most, use.sequence)

    def _outputs(
        self, name: str, use: EncoderUse, tokens: Tokens, negative: bool
    ) -> dict[str, Array]:
        """Return an encoder's outputs and its mask, each with the rows that the pipeline keeps."""
        inputs = {"input_ids": tokens.ids}
        if use.masked:
            inputs["attention_mask"] = tokens.mask
        outputs = {**self.encoders[name](inputs), MASK: tokens.mask}
        rows = _kept_rows(use, negative)
        for part, value in outputs.items():
            if part == MASK:
                outputs[part] = value[:, rows]
            elif value.ndim == 3:
                shown = value * tokens.mask[..., None] if use.zero_padding else value
                outputs[part] = shown[:, rows].astype(np.float32)
        return outputs


def _kept_rows(use: EncoderUse, negative: bool) -> Array:
    """Return the rows of an encoder's output that are kept: the first and the last ones.

    Without a prefix all rows are. A negative prompt has no prefix: it fills the first rows, which
    know nothing of the padding behind them in an encoder that looks back alone, and not only
    through a window shorter than the text (Gemma's is of 4096 tokens).
    """
    if negative or use.sequence == use.length:
        return np.arange(use.length)
    last: Array = np.r_[0, use.sequence - use.length + 1 : use.sequence]
    return last


def put_together(
    rows: Sequence[Sequence[Piece]], outputs: Mapping[tuple[str, str], Array]
) -> Array:
    """Return a condition (N, ...) of its pieces.

    Args:
        rows: Pieces side by side, and these rows one after the other.
        outputs: (encoder, part) -> (N, ...).

    Raises:
        UnfitEngine: No encoder gives a piece.
    """
    n = len(next(iter(outputs.values())))

    def value(piece: Piece) -> Array:
        if piece.part == ZEROS:
            return np.zeros((n, *piece.shape), np.float32)
        if (piece.encoder, piece.part) not in outputs:
            raise UnfitEngine(f"the text encoder {piece.encoder} gives no '{piece.part}'")
        return outputs[piece.encoder, piece.part]

    parts = [np.concatenate([value(piece) for piece in row], axis=-1) for row in rows]
    if len(parts) == 1:
        return parts[0]
    width = max(part.shape[-1] for part in parts)
    wide = [np.pad(p, ((0, 0), (0, 0), (0, width - p.shape[-1]))) for p in parts]
    return np.concatenate(wide, axis=1)


def guidance_value(taken: GuidanceInput, scale: float) -> Array:
    """Return the scale of guidance as the denoiser's input takes it, (...)."""
    if taken.form == "number":
        return np.asarray(scale * taken.factor, np.float32)
    half = taken.width // 2
    rates = np.exp(-np.log(10000.0) * np.arange(half) / (half - 1))
    angles = 1000.0 * (scale - 1.0) * rates
    waves = np.concatenate([np.sin(angles), np.cos(angles)])
    return np.pad(waves, (0, taken.width % 2)).astype(np.float32)


# From a folder ------------------------------------------------------------------------------------


def open_prompts(
    folder: Path,
    engines: Mapping[str, Path],
    threads: int | None = None,
    open_one: Callable[[Path], Engine] | None = None,
) -> PromptEncoder | None:
    """Return the text encoders that a folder's plan names.

    Args:
        folder: The folder of text.json.
        engines: An encoder's name -> its engine folder.
        threads: For engines on a processor; by default all cores.
        open_one: Opens an engine folder, where the engine runs on a server; ``open_engine`` if
            None.

    Returns:
        None where there is no plan, or an encoder of it has no engine folder.

    Raises:
        UnfitEngine: The plan is damaged.
    """
    if not (folder / PLAN_FILE).is_file():
        return None
    plan = read_plan(folder)
    if not set(plan.encoders) <= set(engines):
        return None

    def open_encoder(name: str) -> EncoderCall:
        if open_one is not None:
            return encoder_call(open_one(engines[name]))
        return encoder_call(open_engine(engines[name], threads))

    fixed, null = read_fixed(folder)
    return PromptEncoder(plan, folder, open_encoder, fixed, null)


def read_plan(folder: Path) -> PromptPlan:
    """Return the plan of a folder. Raises UnfitEngine where it cannot be read or is damaged."""
    path = folder / PLAN_FILE
    try:
        content: JsonObject = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UnfitEngine(f"{path} is missing") from None
    except OSError as error:
        raise UnfitEngine(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnfitEngine(f"{path} is damaged: it is not JSON") from None
    plan = plan_from(content, str(path))
    if plan.prepare not in PREPARE:
        raise UnfitEngine(f"{path} is damaged: '{plan.prepare}' is no way to prepare a text")
    return plan


def read_fixed(folder: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return (the conditions that every prompt shares, those that the empty prompt has instead)."""
    path = folder / FIXED_FILE
    if not path.is_file():
        return {}, {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
    except DAMAGE as error:
        raise UnfitEngine(f"{path} is damaged: {error}") from None
    null = {k.removeprefix(_NULL): v for k, v in values.items() if k.startswith(_NULL)}
    return {k: v for k, v in values.items() if not k.startswith(_NULL)}, null


def encoder_call(engine: Engine) -> EncoderCall:
    """Return a text encoder's engine as a call with its outputs by name.

    An engine has one output. Where an encoder gives several, they lie in it flat, one after the
    other; ``parts`` of its model.json has their names and shapes.
    """
    parts = [(name, tuple(shape)) for name, shape in engine.info["source"]["parts"]]
    return partial(_run_encoder, engine, parts)


def _run_encoder(
    engine: Engine, parts: Sequence[tuple[str, tuple[int, ...]]], inputs: dict[str, Array]
) -> dict[str, Array]:
    n = len(inputs["input_ids"])
    size = smallest_batch(engine.batches or [(1, 1)], n)
    rows = {k: np.concatenate([v, np.repeat(v[-1:], size - n, 0)]) for k, v in inputs.items()}
    return split_parts(engine.run(rows)[:n], parts)


def split_parts(output: Array, parts: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Array]:
    """Return an encoder's outputs by name, from the one output (N, ...) of its engine."""
    if len(parts) == 1:
        return {parts[0][0]: output}
    values, start = {}, 0
    for name, shape in parts:
        count = int(np.prod(shape))
        values[name] = output[:, start : start + count].reshape(-1, *shape)
        start += count
    return values
