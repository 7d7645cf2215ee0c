"""Where else a verb can write when a disk takes no more, in the words of its own flags."""

from __future__ import annotations

from collections.abc import Sequence

_TO = "or choose another --to"
_OUT = "or move OUT to another disk, or choose another DIFFC_CACHE; what was done is kept"
_HUB = "or set HF_HOME to another folder; what was downloaded is kept"
_CACHE = "or choose another DIFFC_CACHE; what was done is kept"
_OUT_FLAGS = {"out", "search_out", "lora_out", "image_out"}
_OUT_ARGUMENTS = {"output_folder", "output_folders", "things"}


def place_words(arguments: Sequence[str]) -> str | None:
    """What else there is to do where a disk is full; None where the verb has --out.

    Args:
        arguments: The command line without the program's name.
    """
    from diffc.cli.app import VERBS

    verb = arguments[0] if arguments else ""
    rows = [row for row in VERBS if row.name == verb]
    keys = {key for row in rows for key in vars(row.load()).get("flag_keys", ())}
    typed = {argument.partition("=")[0] for argument in arguments}
    if verb == "baseline" or "bundle_to" in keys or ("layout_to" in keys and "--layout" in typed):
        return _TO
    if keys & _OUT_FLAGS and "--engines" not in typed:
        return None
    if verb == "fetch":
        return _HUB
    return _OUT if keys & _OUT_ARGUMENTS else _CACHE
