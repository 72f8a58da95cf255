"""GRU and SimpleRNN layers of Keras as the operators GRU and RNN: as loops, nothing finds them in a graph any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Recurrent:
    """Which call of a Python function in a TensorFlow graph stands for which layer. It computes what Keras computes."""

    tf: Any
    keras: Any
    layers: dict[bytes, Any] = field(default_factory=dict)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Layers that are called meanwhile become one node each."""
        from unittest import mock  # it brings asyncio, and every run of graphopt imports this file

        with ExitStack() as stack:
            for kind in (self.keras.layers.GRU, self.keras.layers.SimpleRNN):
                stack.enter_context(mock.patch.object(kind, "inner_loop", self._inner_loop(kind.inner_loop)))
            yield

    def handlers(self) -> dict[str, tuple[Any, list[Any]]]:
        """What tf2onnx makes of these nodes."""
        return {"EagerPyFunc": (self._write, [])}

    def _inner_loop(self, original: Any) -> Any:
        def inner_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            state = self.keras.tree.flatten(initial_state)[0]
            if not self._is_plain(layer, sequences, mask):
                return original(layer, sequences, initial_state, mask, training)

            def framework(steps: Any, first: Any, *_: Any) -> Any:
                last, every, _ = original(layer, steps, [first], None)
                return (every, last) if layer.return_sequences else last

            return self._called(layer, framework, sequences, state)

        return inner_loop

    def _called(self, layer: Any, framework: Any, sequences: Any, state: Any) -> Any:
        tf, cell = self.tf, layer.cell
        weights = [cell.kernel, cell.recurrent_kernel, *([] if cell.bias is None else [cell.bias])]
        tensors = [sequences, state, *(tf.convert_to_tensor(one) for one in weights)]
        batch, steps, _ = sequences.shape
        if not layer.return_sequences:
            last = tf.py_function(framework, tensors, tf.float32)
            self.layers[last.op.get_attr("token")] = layer
            last = tf.ensure_shape(last, (batch, layer.units))
            return last, tf.expand_dims(last, 1), [last]
        every, last = tf.py_function(framework, tensors, [tf.float32, tf.float32])
        self.layers[last.op.get_attr("token")] = layer
        last = tf.ensure_shape(last, (batch, layer.units))
        return last, tf.ensure_shape(every, (batch, steps, layer.units)), [last]

    def _is_plain(self, layer: Any, sequences: Any, mask: Any) -> bool:
        """Whether the operators of ONNX can say what the layer does."""
        names = [getattr(layer.cell, name, None) for name in ("activation", "recurrent_activation")]
        known = self.keras.activations
        gru = isinstance(layer, self.keras.layers.GRU)
        fits = names == [known.tanh, known.sigmoid] if gru else names[0] in (known.tanh, known.relu)
        return bool(
            fits and sequences.dtype == self.tf.float32 and not self.tf.executing_eagerly()
            and all(one is None for one in self.keras.tree.flatten(mask)) and not layer.stateful
        )  # fmt: skip

    def _write(self, graph: Any, node: Any, name: str, args: Any) -> None:
        """GRU(x, w, r, b, , h): steps first; gates z, r, h in both, of which Keras keeps the columns, ONNX the rows."""
        layer = self.layers[node.get_attr_value("token")]
        units, gru = layer.units, isinstance(layer, self.keras.layers.GRU)
        x, state, kernel, recurrent, *bias = node.input
        kind, outputs = graph.get_dtype(x), list(node.output)
        graph.remove_node(name)

        def make(op: str, *inputs: str, **words: Any) -> str:
            return str(graph.make_node(op, list(inputs), dtypes=[kind], attr=words).output[0])

        def shaped(one: str, *dims: int) -> str:
            return make("Reshape", one, str(graph.make_const(f"{name}/{one}/dims", np.array(dims)).output[0]))

        gates = 3 * units if gru else units
        after = gru and layer.cell.reset_after
        inputs = [
            make("Transpose", x, perm=[1, 0, 2]),
            shaped(make("Transpose", kernel, perm=[1, 0]), 1, gates, -1),
            shaped(make("Transpose", recurrent, perm=[1, 0]), 1, gates, units),
            "", "", shaped(state, 1, -1, units),
        ]  # fmt: skip
        if bias:
            flat = shaped(bias[0], 1, -1)
            zeros = graph.make_const(f"{name}/zeros", np.zeros((1, gates), np.float32)).output[0]
            inputs[3] = flat if after else make("Concat", flat, zeros, axis=1)
        if layer.go_backwards:
            inputs[0] = self._reversed(graph, name, make, inputs[0])
        words = {"linear_before_reset": int(after)} if gru else {"activations": [self._activation(layer)]}
        made = graph.make_node(
            "GRU" if gru else "RNN", inputs, attr={"hidden_size": units, **words}, output_count=2, dtypes=[kind, kind]
        )
        every = shaped(make("Transpose", made.output[0], perm=[2, 0, 1, 3]), 0, 0, -1)
        found = [every, shaped(made.output[1], -1, units)][-len(outputs) :]
        for one, wanted in zip(found, outputs, strict=True):
            graph.make_node("Identity", [one], outputs=[wanted], dtypes=[kind], name=f"{wanted}/kept")

    def _activation(self, layer: Any) -> str:
        return "Relu" if layer.cell.activation is self.keras.activations.relu else "Tanh"

    def _reversed(self, graph: Any, name: str, make: Any, steps: str) -> str:
        """x[::-1]."""
        ends = [
            graph.make_const(f"{name}/{word}", np.array([number])).output[0]
            for word, number in (("first", -1), ("end", np.iinfo(np.int64).min), ("axis", 0), ("step", -1))
        ]
        return str(make("Slice", steps, *ends))
