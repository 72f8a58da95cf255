"""TensorFlow Lite's way in: .tflite files, by the schema alone, and the interpreter where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphopt
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.importer import Imported, Importer, ImportRequest

OPSET = 18


class TFLite(Importer):
    """.tflite files; quantized tensors become pairs of QuantizeLinear and DequantizeLinear."""

    name = "tflite"
    suffixes = (".tflite", ".lite")
    extra = "graphopt[tflite]"
    options: Mapping[str, str] = {
        "signature": "Which signature gives inputs and outputs their names, where the file has several.",
        "outputs": "End at these tensors, with commas, instead of the file's outputs.",
    }

    def accepts(self, source: str) -> bool:
        path = Path(source)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8)[4:] == b"TFL3"

    def convert(self, request: ImportRequest) -> Imported:
        import onnx

        from graphopt.importing.samples import example_inputs
        from graphopt_importers.signature import chosen, declare

        from .interpreter import original, with_rounding
        from .model import converted
        from .reader import read

        path = Path(request.source)
        if not path.is_file():
            raise ModelError("no such file", where=request.source)
        if request.opset is not None and not 13 <= request.opset <= 21:
            raise UsageError(f"opset {request.opset} is not written, but 13 to 21", hint="leave --opset out")
        request.progress("reading", 0, 0)
        data = path.read_bytes()
        file = read(data, request.source)
        ends = ports(file, request)
        specs = chosen(request, ends.inputs)
        request.progress("converting", 0, 0)
        least = 21 if any(one.type == "INT16" and one.quant for one in ends.graph.tensors) else OPSET
        if least > OPSET and request.opset is not None and request.opset < least:
            raise UsageError(f"16-bit activations need opset {least}", where=request.source, hint="leave --opset out")
        model, notes = converted(file, ends, request.opset or least, request.source)
        declare(model, specs)
        target = request.folder / "model.onnx"
        onnx.save(model, target)
        made = original(data, file, ends, request.source)
        feeds = example_inputs(request, target)
        made = with_rounding(data, ends, request.source, made, feeds)
        return Imported(target, made.run, feeds, [*notes, *made.notes], made.rounding, [path])


def ports(file: Any, request: ImportRequest) -> Any:
    """Inputs and outputs with the names of the signature, or of the tensors. Raises UsageError for unknown names."""
    from .model import Ends

    wanted = request.options.get("signature")
    keys = [one.key for one in file.signatures]
    if wanted is not None and wanted not in keys:
        hint = f"signatures: {', '.join(keys)}" if keys else "the file has none"
        raise UsageError(f"no signature is named {wanted!r}", where=request.source, hint=hint)
    if wanted is None and len(keys) > 1:
        if "serving_default" not in keys:
            hint = f"--import-option signature=NAME: {', '.join(keys)}"
            raise UsageError("it has several signatures", where=request.source, hint=hint)
        wanted = "serving_default"
    found = next((one for one in file.signatures if one.key == wanted or wanted is None), None)
    graph = file.graphs[found.graph if found is not None and found.graph < len(file.graphs) else 0]
    inputs = {index: graph.tensors[index].name for index in graph.inputs}
    outputs = {index: graph.tensors[index].name for index in graph.outputs}
    if found is not None:
        inputs.update({index: name for name, index in found.inputs.items() if index in inputs})
        outputs.update({index: name for name, index in found.outputs.items() if index in outputs})
    if "outputs" in request.options:
        numbers = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
        outputs = {}
        for name in filter(None, (one.strip() for one in request.options["outputs"].split(","))):
            if name not in numbers:
                hint = nearest(name, numbers, "they are names of tensors", 0.6)
                raise UsageError(f"outputs: there is no tensor {name!r}", where=request.source, hint=hint)
            outputs[numbers[name]] = name
    taken = set(inputs.values())
    for index in list(outputs):  # an input may be an output, under one name
        while outputs[index] in taken:
            outputs[index] += "_out"
        taken.add(outputs[index])
    return Ends(graph, inputs, outputs, found.key if found is not None else None)


@graphopt.hookimpl
def graphopt_importers() -> list[Any]:
    return [TFLite()]
