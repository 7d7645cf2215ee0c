"""A tokenizer's files, whichever they are -> one tokenizer.json, which the runtime reads.

transformers reads them: CLIP's vocab.json and merges.txt, T5's spiece.model. Where it gives a
tokenizer of its own code, its converter makes the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffc.errors import InputError, in_short
from diffc.models.classes import component_class
from diffc.models.components import Component
from diffc.models.foreign import foreign_errors, quiet_libraries
from diffc_runtime.prompt_plan import TokenizerFacts


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer as the runtime reads it.

    Attributes:
        content: The text of tokenizer.json.
        facts: What the file does not say.
    """

    content: str
    facts: TokenizerFacts

    def count(self, text: str) -> int:
        """Return how many tokens a text has, special ones counted."""
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(self.content)
        whole.no_truncation()
        return len(whole.encode(text).ids)


def convert_tokenizer(part: Component, pad_left: bool | None = None) -> ConvertedTokenizer:
    """Return a pipeline's tokenizer as one file.

    Args:
        part: The tokenizer.
        pad_left: The side of the padding, where the pipeline decides it.

    Raises:
        InputError: transformers cannot read the tokenizer, or has no converter for it.
    """
    part.need_folder()
    with quiet_libraries(), foreign_errors(f"the tokenizer {part.folder} cannot be read"):
        loaded = component_class(part).from_pretrained(part.folder, local_files_only=True)
    left = loaded.padding_side == "left" if pad_left is None else pad_left
    facts = TokenizerFacts(
        file=f"{part.name}.json",
        pad_id=int(loaded.pad_token_id or 0),
        pad_left=left,
        cut_left=loaded.truncation_side == "left",
    )
    return ConvertedTokenizer(str(_backend(loaded, part).to_str()), facts)


def _backend(loaded: Any, part: Component) -> Any:
    """The tokenizer of the package ``tokenizers`` inside transformers' one, or made of it."""
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is not None:
        return backend
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    try:
        return convert_slow_tokenizer(loaded)
    except Exception as error:  # whatever the class's own files lead to
        raise InputError(
            f"{part.folder} cannot become a tokenizer.json: {in_short(error)}",
            hint="put a tokenizer.json there (AutoTokenizer.from_pretrained(...).save_pretrained), "
            "or leave prompts to the caller: --text-encoders off",
        ) from None
