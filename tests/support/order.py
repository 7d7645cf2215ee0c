"""Which files of tests come first: two workers end together if the long files do not come last."""

from __future__ import annotations

import hashlib
import os

import pytest

LONG_FILES = (
    "tests/stages/test_precision_choice.py",  # makes ``compiled``, while the next three need none
    "tests/models/families/test_families.py",
    "tests/cli/test_stdout.py",
    "tests/test_runner.py",
    "tests/bench/test_gpu_bench.py",
    "tests/docs/test_docs_commands.py",
    "tests/models/families/test_whole_chain.py",
    "tests/trials/test_search_goals.py",
    "tests/stages/test_image_to_image.py",
    "tests/distill/test_processes.py",
    "tests/distill/test_sharded.py",
    "tests/stages/test_prompted_pipelines.py",
    "tests/bundle/test_triton_prompts.py",
    "tests/bundle/test_triton_server.py",
    "tests/models/families/test_export.py",
    "tests/stages/test_shape_flags.py",
    "tests/models/test_shipped.py",
    "tests/bench/test_frontier_bench.py",
    "tests/data/test_tensors.py",
    "tests/trials/test_search.py",
    "tests/trials/test_workers.py",
    "tests/stages/test_latent_bundle.py",
    "tests/stages/test_repair_stage.py",
    "tests/layouts/test_pipeline_folders.py",
    "tests/gate/test_check.py",
    "tests/test_lean_imports.py",
    "tests/faults/test_embeddings.py",
    "tests/faults/test_conditions.py",
    "tests/cli/test_several_ratios.py",
    "tests/distill/test_train.py",
    "tests/stages/test_distill_loop.py",
    "tests/targets/test_conditional.py",
    "tests/prune/test_planning.py",
    "tests/prune/test_latency_allocation.py",
    "tests/bench/test_full_size.py",
    "tests/stages/test_launched.py",
    "tests/stages/test_finished.py",
    "tests/stages/test_compile.py",
    "tests/stages/test_distill_recipe.py",
    "tests/data/test_prompts.py",
    "tests/data/test_run_loops.py",
    "tests/onnx/test_precision.py",
    "tests/cli/test_usage.py",
    "tests/cli/test_bench.py",
    "tests/models/test_compressed_folder.py",
    "tests/faults/test_halved_batches.py",
    "tests/faults/test_disks.py",
    "tests/measure/test_memory.py",
)
"""Files that take longest, the longest first; all others follow in their own order."""


def long_files_first(items: list[pytest.Item]) -> None:
    """Sort ``items`` in place.

    With DIFFC_TESTS_TURN, any text, all files come in an order that it decides. Where a session
    ends before all is done (deadline.py), each turn leaves out others.
    """
    turn = os.environ.get("DIFFC_TESTS_TURN")
    place = {name: i for i, name in enumerate(() if turn else LONG_FILES)}

    def key(item: pytest.Item) -> tuple[int, str]:
        file = item.nodeid.partition("::")[0]
        lot = hashlib.sha256(f"{turn} {file}".encode()).hexdigest() if turn else ""
        return place.get(file, len(place)), lot

    items.sort(key=key)
