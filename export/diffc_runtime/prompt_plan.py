"""How a pipeline turns a prompt into the denoiser's conditions, as data: text.json.

A family of denoisers states the plan, the export completes it, and the runtime follows it without
knowing any pipeline. A condition is made of pieces: rows of pieces lie one after the other along
the text, and the pieces of a row side by side, padded with zeros to the width of the condition.

    Stable Diffusion 3   encoder_hidden_states = [[CLIP, CLIP 2], [T5]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from .errors import UnfitEngine
from .json_types import JsonDict, JsonObject

FORMAT = 1
PLAN_FILE = "text.json"
TEXT_FOLDER = "text"
"""The folder of the plan, the tokenizers and the fixed conditions."""
FIXED_FILE = "fixed.npz"
"""Conditions that every prompt shares, by name; ``null.NAME`` where the empty prompt differs."""
MASK, ZEROS = "mask", "zeros"


@dataclass(frozen=True)
class EncoderUse:
    """How a pipeline uses one of its text encoders.

    Attributes:
        tokenizer: The tokenizer's name in the pipeline.
        length: How many tokens of a prompt are kept, and rows the output has.
        masked: True if the encoder is given the mask of the padding.
        pad_left: The side of the padding; None: as the tokenizer does.
        prefix_argument: The argument of the pipeline's call whose lines stand before every prompt;
            "" for none. The export puts the text in ``prefix``.
        prefix: The text before every prompt; negative prompts have none.
        prefix_tokens: How many tokens the tokenizer makes of the prefix.
        zero_padding: True if the rows of the padding become zeros.
    """

    tokenizer: str
    length: int
    masked: bool = False
    pad_left: bool | None = None
    prefix_argument: str = ""
    prefix: str = ""
    prefix_tokens: int = 0
    zero_padding: bool = False

    @property
    def sequence(self) -> int:
        """The tokens of a call of the encoder: ``length``, and room for the prefix.

        The prefix's first and last tokens are counted in ``length`` (Sana, arXiv 2410.10629, and
        diffusers' pipeline of it).
        """
        return self.length + max(self.prefix_tokens - 2, 0)


@dataclass(frozen=True)
class Piece:
    """A piece of a condition.

    Attributes:
        encoder: The text encoder's name; "" for zeros.
        part: The encoder's output, ``mask`` for the tokens' mask, or ``zeros``.
        shape: Of zeros, without the batch.
    """

    encoder: str
    part: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class GuidanceInput:
    """An input of the denoiser that is the scale of guidance.

    Attributes:
        name: The input's.
        form: ``number``, or ``sinusoids`` of the scale less 1 (Luo et al., arXiv 2310.04378).
        factor: The scale is multiplied by it.
        width: How many sinusoids.
    """

    name: str
    form: str = "number"
    factor: float = 1.0
    width: int = 0


@dataclass(frozen=True)
class TokenizerFacts:
    """What the tokenizer's own file does not say.

    Attributes:
        file: The tokenizer's file beside the plan.
        pad_id: The token that pads.
        pad_left, cut_left: The side where a prompt is padded, and where it is cut.
    """

    file: str
    pad_id: int
    pad_left: bool = False
    cut_left: bool = False


@dataclass(frozen=True)
class PromptPlan:
    """How prompts become conditions.

    Attributes:
        encoders: The encoder's name -> how it is used.
        conditions: The denoiser's input -> rows of pieces.
        prepare: What is done with a prompt's text first: a name of ``prompts.PREPARE``.
        negative: What no negative prompt means: ``empty`` for the empty prompt, or ``zeros``.
        guidance: The input that takes the scale; None: guidance makes two calls.
        tokenizers: The tokenizer's name -> its facts; empty before the export.
    """

    encoders: Mapping[str, EncoderUse]
    conditions: Mapping[str, Sequence[Sequence[Piece]]]
    prepare: str = ""
    negative: str = "empty"
    guidance: GuidanceInput | None = None
    tokenizers: Mapping[str, TokenizerFacts] = field(default_factory=dict)

    def to_json(self) -> JsonDict:
        """Return the plan as text.json has it."""
        return {"format": FORMAT, **asdict(self)}

    def parts_of(self, encoder: str) -> tuple[str, ...]:
        """Return the outputs of an encoder that the conditions are made of, each once."""
        pieces = (piece for rows in self.conditions.values() for row in rows for piece in row)
        named = (piece.part for piece in pieces if piece.encoder == encoder and piece.part != MASK)
        return tuple(dict.fromkeys(named))


def plan_from(content: JsonObject, place: str) -> PromptPlan:
    """Return the plan that text.json holds.

    Args:
        content: The file's content.
        place: The file's name, for errors.

    Raises:
        UnfitEngine: The content is no plan that this runtime reads.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UnfitEngine(f"{place} is not of format {FORMAT}, the one that this runtime reads")
    try:
        guidance = content["guidance"]
        plan = PromptPlan(
            encoders={name: _use(use) for name, use in content["encoders"].items()},
            conditions={
                name: [[_piece(piece) for piece in row] for row in rows]
                for name, rows in content["conditions"].items()
            },
            prepare=content["prepare"],
            negative=content["negative"],
            guidance=None if guidance is None else GuidanceInput(**guidance),
            tokenizers={name: TokenizerFacts(**one) for name, one in content["tokenizers"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UnfitEngine(f"{place} is damaged ({type(error).__name__}: {error})") from None
    missing = _missing_name(plan)
    if missing is not None:
        raise UnfitEngine(f"{place} is damaged: {missing}")
    return plan


def _missing_name(plan: PromptPlan) -> str | None:
    """Return what the plan names and does not have, as a sentence; None for nothing."""
    for use in plan.encoders.values():
        if use.tokenizer not in plan.tokenizers:
            return f"it has no tokenizer '{use.tokenizer}'"
    for rows in plan.conditions.values():
        for piece in (piece for row in rows for piece in row):
            if piece.part != ZEROS and piece.encoder not in plan.encoders:
                return f"it has no text encoder '{piece.encoder}'"
    return None


def _use(content: JsonObject) -> EncoderUse:
    if not isinstance(content["length"], int):
        raise TypeError("a length is no whole number")
    return EncoderUse(**content)


def _piece(content: JsonObject) -> Piece:
    return Piece(content["encoder"], content["part"], tuple(content["shape"]))
