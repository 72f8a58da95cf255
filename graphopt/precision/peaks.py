"""The largest magnitudes of a model's inner values on samples, found while it runs: no value is kept or moved."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.numerics.difference import Array
from graphopt.numerics.execute import ChildDied, ExecutionError, Runner
from graphopt.numerics.program import put

from .observe import Feeds, observe

_PEAK, _SUM = "__graphopt_peak_", "__graphopt_sum_"


def peaks(
    graph: gs.Graph,
    tensors: Sequence[gs.Tensor],
    samples: Iterable[Feeds],
    runner: Runner,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """(number of the sample, {name: values}): max |values| is that of the tensor; each tensor once for each sample.

    One number, reduced by nodes behind the model's own; the whole value where it is empty or not finite: sums tell, as
    a maximum may lose NaN. samples: iterated once, and once more where whole values are needed. Raises ExecutionError.
    """
    unclear: dict[str, set[int]] = {tensor.name: set() for tensor in tensors}
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder, "peaks.onnx")
            put(graph, path)
            path.write_bytes(_reduced(path, list(unclear)))
            runner.open(path)
            for sample, feeds in enumerate(samples):
                found = runner.run(feeds)
                clear = {}
                for number, (name, missing) in enumerate(unclear.items()):
                    peak = np.asarray(found[f"{_PEAK}{number}"])
                    if np.isfinite(peak) and peak >= 0 and np.isfinite(np.asarray(found[f"{_SUM}{number}"])):
                        clear[name] = peak
                    else:
                        missing.add(sample)
                yield sample, clear
                if progress is not None:
                    progress(sample, 1000)
            runner.close()
    except ChildDied:
        raise
    except ExecutionError:  # no such reduction, of an empty tensor for instance; or the model's own, which comes again
        yield from observe(graph, tensors, samples, runner, progress=progress)
        return
    rest = [tensor for tensor in tensors if unclear[tensor.name]]
    for sample, values in observe(graph, rest, samples, runner) if rest else ():
        yield sample, {name: value for name, value in values.items() if sample in unclear[name]}


def _reduced(path: Path, names: Sequence[str]) -> bytes:
    """The model at `path` with max |x| and sum |x| of each named value in place of its outputs."""
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    del graph.output[:]
    node = onnx.helper.make_node
    for number, name in enumerate(names):
        size, peak, total = f"__graphopt_abs_{number}", f"{_PEAK}{number}", f"{_SUM}{number}"
        graph.node.append(node("Abs", [name], [size]))
        graph.node.append(node("ReduceMax", [size], [peak], keepdims=0))
        graph.node.append(node("ReduceSum", [size], [total], keepdims=0))
        for made in (peak, total):
            graph.output.append(onnx.helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, ()))
    return bytes(model.SerializeToString())
