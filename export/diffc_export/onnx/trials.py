"""Mixtures of a graph and its int8 twin, compared with the graph itself.

PrecisionTrials   the error of a mixture, and the mixture itself
quantized_layers  which nodes the twin has in int8
first_output      a call of a session
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffc_export.onnx.layer_macs import OPERATORS, Feed, open_session
from diffc_export.targets.base import Array
from diffc_runtime.libraries import ort as library

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def first_output(session: Any, feeds: Feed) -> Array:
    with library.failures_named("calibrating", on_gpu=False):
        output: Array = session.run(None, dict(feeds))[0]
        return output


def quantized_layers(plain: ModelProto, whole: ModelProto) -> list[str]:
    """Return the names of the nodes that quantisation changed, in the graph's order."""
    before = {node.name: list(node.input) for node in plain.graph.node}
    return [
        node.name
        for node in whole.graph.node
        if node.op_type in OPERATORS and before.get(node.name) not in (None, list(node.input))
    ]


class PrecisionTrials:
    """Compares mixtures of the fp32 and the quantised graph with the fp32 graph, on the same rows.

    The weights of both lie in files of one folder; every variant reads them there.

    Attributes:
        layers: The names of the nodes that the quantised graph has changed, in the graph's order.
        plain: The fp32 graph.
        in_file: Whether the weights stay in their files during the calls.
        calls: How often a mixture was run, a row at a time.
    """

    def __init__(
        self,
        plain: ModelProto,
        whole: ModelProto,
        rows: Sequence[Feed],
        threads: int,
        folder: Path,
        *,
        in_file: bool = False,
    ) -> None:
        """Run the fp32 graph.

        Args:
            plain: The fp32 graph, whose weights were set aside in ``folder``.
            whole: The quantised graph (``qdq.write_pairs``).
            rows: The inputs to compare on.
            threads: Of the runtime.
            folder: Where the weights are; the variants go there.
            in_file: Whether the weights stay in their files during the calls (``open_session``).
        """
        self.layers, self.plain, self.in_file = quantized_layers(plain, whole), plain, in_file
        self._folder = folder
        self._plain = {node.name: list(node.input) for node in plain.graph.node}
        self._weights = {tensor.name: tensor for tensor in plain.graph.initializer}
        self._whole = whole
        self._rows = rows
        self._threads = threads
        session = self._session(plain)
        self._expected = [first_output(session, row) for row in rows]
        self._order = list(range(len(rows)))
        self.calls = 0

    def _session(self, model: ModelProto) -> Any:
        return open_session(self._write(model), self._threads, in_file=self.in_file)

    def _write(self, model: ModelProto) -> Path:
        import onnx

        path = self._folder / "variant.onnx"
        onnx.save(model, path)
        return path

    def write(self, kept: Collection[str]) -> Path:
        """Write the variant; the file is there until the next one is run or written."""
        return self._write(self.variant(kept))

    def variant(self, kept: Collection[str]) -> ModelProto:
        """Return the quantised graph with the nodes ``kept`` in fp32, its weights in their files.

        The nodes ``kept`` get their original inputs back, and so does every node that is not a
        layer: the quantiser converts a layer's input to int8 for its other readers as well, such
        as residual sums and norms.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._whole)
        stored = {tensor.name for tensor in model.graph.initializer}
        layers, kept = frozenset(self.layers), frozenset(kept)
        for node in model.graph.node:
            restored = node.name in kept or node.name not in layers
            if restored and node.name in self._plain:
                node.input[:] = self._plain[node.name]
                for name in node.input:
                    if name in self._weights and name not in stored:
                        model.graph.initializer.append(self._weights[name])
                        stored.add(name)
        _remove_unused(model.graph)
        return model

    def error(
        self, kept: Collection[str], limit: float = math.inf, rows: int | None = None
    ) -> float:
        """Return the largest relative L2 error of a row with the nodes ``kept`` in fp32.

        The first error that is above ``limit`` is returned at once; its row comes first from then.

        Args:
            kept: Names of layers.
            limit: The most that is of interest.
            rows: How many rows are compared, the first ones; None: all.
        """
        session, largest = self._session(self.variant(kept)), 0.0
        for place, index in enumerate(self._order[:rows]):
            error = self._row_error(session, index)
            if not error <= limit:  # nor where it is NaN
                self._order.insert(0, self._order.pop(place))
                return error
            largest = max(largest, error)
        return largest

    def sort_rows(self) -> float:
        """Put the row first on which the whole has the largest error in int8; return that error."""
        session = self._session(self.variant(()))
        errors = [self._row_error(session, index) for index in range(len(self._rows))]
        self._order.sort(key=lambda index: -errors[index])
        return errors[self._order[0]]

    def _row_error(self, session: Any, index: int) -> float:
        self.calls += 1
        output = first_output(session, self._rows[index])
        return _relative_error(output, self._expected[index])


def _relative_error(output: Array, expected: Array) -> float:
    error = np.linalg.norm(np.subtract(output, expected).astype(np.float64))
    return float(error / (np.linalg.norm(expected.astype(np.float64)) or 1.0))


def _remove_unused(graph: GraphProto) -> None:
    """Remove the Q/DQ nodes and weights that no node reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {value.name for value in graph.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
