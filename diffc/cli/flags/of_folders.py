"""The flags of folders that others load: bundles for servers, layouts of other libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffc.cli.flags import completion
from diffc.cli.flags.flag import IN_TO, WHAT, WHERE, Flag

BUNDLE = (
    Flag(
        "bundle_to",
        Path,
        "Where the bundle goes.",
        group=WHAT,
        name="to",
        required=True,
        metavar="FOLDER",
        place=IN_TO,
    ),
    Flag(
        "bundle_server",
        str,
        "triton: a model repository; ovms: OpenVINO Model Server's; none: a plain folder.",
        group=WHERE,
        name="server",
        default="triton",
        values=completion.server_names,
    ),
    Flag(
        "bundle_target",
        str,
        "Whose engine.",
        shown="the only one in OUT",
        group=WHERE,
        name="target",
        values=completion.target_names,
    ),
    Flag(
        "side",
        str,
        "compressed or dense.",
        group=WHAT,
        default="compressed",
        values=completion.sides,
    ),
    Flag(
        "plan",
        list[Path],
        "An engine folder of the same model for another GPU; repeatable.",
        group=WHERE,
        metavar="ENGINE",
    ),
    Flag("force", bool, "Add to a folder that is not empty."),
)
EXPORT = (
    Flag(
        "layout",
        str,
        "A whole pipeline from OUT/onnx for another library: optimum, or openvino.",
        group=WHAT,
        values=completion.layout_names,
    ),
    Flag(
        "layout_to",
        Path,
        "Where it goes.",
        shown="OUT/LAYOUT/SIDE",
        group=WHAT,
        name="to",
        metavar="FOLDER",
        place=replace(IN_TO, beside="--layout"),
    ),
)
