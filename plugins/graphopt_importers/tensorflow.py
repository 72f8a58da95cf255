"""TensorFlow's and Keras' way in: SavedModel folders, frozen graphs, .keras and .h5 files."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

import graphopt
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.importer import Imported, Importer, ImportRequest
from graphopt.named import are_installed, import_module

from .keras_recurrent import Recurrent
from .signature import Spec, batch_named
from .traced import Function, as_spec, convert, tensorflow

EXTRA = "graphopt[tensorflow]"


class TensorFlow(Importer):
    """SavedModel folders and frozen graphs."""

    name = "tensorflow"
    suffixes = (".pb",)
    also = ("a SavedModel's folder",)
    extra = EXTRA
    options: Mapping[str, str] = {
        "signature": "Which signature of a SavedModel: serving_default if not given.",
        "tag": "Which graph of a SavedModel, by its tags, with commas: serve if not given.",
        "inputs": "Where a frozen graph begins: names of tensors, with commas; its placeholders if not given.",
        "outputs": "Where a frozen graph ends: names of tensors, with commas.",
    }

    def accepts(self, source: str) -> bool:
        return (Path(source) / "saved_model.pb").is_file()

    def convert(self, request: ImportRequest) -> Imported:
        path = Path(request.source)
        tf = tensorflow()
        if path.name == "saved_model.pb":
            path = path.parent
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.is_file())
            return convert(request, _saved_model(tf, request, path), files=files)
        if not path.is_file():
            raise ModelError("no such file or folder", where=request.source)
        function, notes = _frozen(tf, request, path)
        return convert(request, function, notes, [path])


class Keras(Importer):
    """Whole Keras models: .keras (Keras 3) and .h5."""

    name = "keras"
    suffixes = (".keras", ".h5", ".hdf5")
    extra = EXTRA
    options: Mapping[str, str] = {
        "modules": "Python modules with the model's custom layers, with commas: imported before the file is read.",
    }

    def accepts(self, source: str) -> bool:
        return False

    def convert(self, request: ImportRequest) -> Imported:
        path = Path(request.source)
        if not path.is_file():
            raise ModelError("no such file", where=request.source)
        if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
            raise UsageError(
                f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']}", hint="set it to tensorflow, or unset it"
            )
        tf = tensorflow()
        import keras

        request.progress("loading", 0, 0)
        files = [path] if are_installed(request.options.get("modules", "")) else None
        function = _keras_function(tf, keras, request, _load_keras(keras, request, path))
        return convert(request, function, files=files)


@graphopt.hookimpl
def graphopt_importers() -> list[Any]:
    return [TensorFlow(), Keras()]


def _saved_model(tf: Any, request: ImportRequest, folder: Path) -> Function:
    for option in ("inputs", "outputs"):
        if option in request.options:
            hint = "name a signature with --import-option signature=..., or freeze the graph"
            raise UsageError(f"{option} is for frozen graphs; this is a SavedModel", where=request.source, hint=hint)
    tags = request.options.get("tag", "serve").split(",")
    found = _tags(request, folder)
    if set(tags) not in [set(one) for one in found]:
        have = "; ".join(",".join(one) or "(none)" for one in found)
        raise UsageError(f"no graph has the tags {','.join(tags)}", where=request.source, hint=f"it has: {have}")
    request.progress("loading", 0, 0)
    try:
        loaded = tf.saved_model.load(str(folder), tags=tags)
    except Exception as error:
        hint = "the folder holds saved_model.pb and variables/: is it whole?"
        what = f"TensorFlow cannot load it: {type(error).__name__}: {_short(error)}"
        raise ModelError(what, where=request.source, hint=hint) from error
    names = list(loaded.signatures)
    wanted = request.options.get(
        "signature", "serving_default" if "serving_default" in names or not names else names[0]
    )
    if not names:
        hint = (
            "save it with signatures: tf.saved_model.save(model, folder, signatures=function), or model.export(folder)"
        )
        raise ModelError("it has no signature", where=request.source, hint=hint)
    if wanted not in names or ("signature" not in request.options and wanted != "serving_default" and len(names) > 1):
        hint = f"--import-option signature=NAME: {', '.join(names)}"
        raise UsageError(f"no signature is named {wanted!r}", where=request.source, hint=hint)
    signature = loaded.signatures[wanted]
    inputs = [as_spec(name, spec) for name, spec in signature.structured_input_signature[1].items()]
    outputs = list(signature.structured_outputs)
    size = sum(int(v.shape.num_elements() or 0) * v.dtype.size for v in getattr(loaded, "variables", ()) or ())

    def call(*args: Any, held: Any = loaded) -> Sequence[Any]:
        found = signature(**{spec.name: value for spec, value in zip(inputs, args, strict=True)})
        return [found[name] for name in outputs]

    return Function(inputs, outputs, call, size)


def _tags(request: ImportRequest, folder: Path) -> list[list[str]]:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        model = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except FileNotFoundError as error:
        raise ModelError("the folder holds no saved_model.pb", where=request.source) from error
    except DecodeError as error:
        raise ModelError(f"saved_model.pb is damaged: {error}", where=request.source) from error
    return [list(graph.meta_info_def.tags) for graph in model.meta_graphs]


def _frozen(tf: Any, request: ImportRequest, path: Path) -> tuple[Function, list[str]]:
    """The graph between the inputs and outputs that were named."""
    for option in ("signature", "tag"):
        if option in request.options:
            raise UsageError(f"{option} is for SavedModel folders; this is a file", where=request.source)
    graph = tf.compat.v1.GraphDef()
    data = path.read_bytes()
    try:
        graph.ParseFromString(data)
    except DecodeError as error:
        raise _no_graph(request, data, f"it is damaged, or no frozen graph: {error}") from error
    if not graph.node or not all(node.op for node in graph.node):
        raise _no_graph(request, data, "there is no TensorFlow graph in it")
    nodes = {node.name: node for node in graph.node}
    variables = [node.name for node in graph.node if node.op in ("VariableV2", "VarHandleOp", "Variable")]
    if variables:
        hint = "give the SavedModel instead, or freeze it: convert_variables_to_constants"
        raise ModelError(f"the graph is not frozen: {variables[0]} is a variable", where=request.source, hint=hint)
    notes = []
    inputs = _tensors(request, "inputs", nodes) or [n.name + ":0" for n in graph.node if n.op.startswith("Placeholder")]
    outputs = _tensors(request, "outputs", nodes)
    if not outputs:
        ends = _ends(graph)
        if len(ends) != 1:
            listed = ", ".join(f"{name} ({nodes[name].op})" for name in ends[:12]) or "none"
            hint = f"--import-option outputs=NAME,...; nodes that nothing reads: {listed}"
            raise UsageError("a frozen graph does not say which its outputs are", where=request.source, hint=hint)
        outputs = [ends[0] + ":0"]
        notes = [f"output is {ends[0]}: the only node that nothing reads"]
    try:
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        pruned = wrapped.prune(
            [wrapped.graph.get_tensor_by_name(n) for n in inputs],
            [wrapped.graph.get_tensor_by_name(n) for n in outputs],
        )
    except Exception as error:
        raise ModelError(
            f"TensorFlow cannot take the graph: {type(error).__name__}: {_short(error)}", where=request.source
        ) from error
    specs = [as_spec(_plain(name), wrapped.graph.get_tensor_by_name(name)) for name in inputs]

    def call(*args: Any) -> Sequence[Any]:
        found: Sequence[Any] = pruned(*args)
        return found

    return Function(specs, [_plain(name) for name in outputs], call, len(data)), notes


def _no_graph(request: ImportRequest, data: bytes, what: str) -> ModelError:
    hint = ""
    try:
        other = onnx.ModelProto.FromString(data)
        if other.graph.node and other.opset_import:
            hint = "it is an ONNX model: name it .onnx"
    except DecodeError:
        pass
    return ModelError(what, where=request.source, hint=hint)


def _tensors(request: ImportRequest, option: str, nodes: Mapping[str, Any]) -> list[str]:
    """The tensors that an option names, as NODE:NUMBER. Raises UsageError for a node that does not exist."""
    names = [name.strip() for name in request.options.get(option, "").split(",") if name.strip()]
    for name in names:
        node = name.partition(":")[0]
        if node not in nodes:
            hint = nearest(node, nodes, f"{option} are names of nodes, as NAME or NAME:0", 0.6)
            raise UsageError(f"{option}: the graph has no node {node!r}", where=request.source, hint=hint)
    return [name if ":" in name else f"{name}:0" for name in names]


def _ends(graph: Any) -> list[str]:
    """Nodes that nothing reads, and that may be results."""
    read = {name.lstrip("^").partition(":")[0] for node in graph.node for name in node.input}
    none = ("Const", "NoOp", "Assert", "Placeholder")
    return [node.name for node in graph.node if node.name not in read and node.op not in none]


def _plain(name: str) -> str:
    return name.removesuffix(":0")


def _load_keras(keras: Any, request: ImportRequest, path: Path) -> Any:
    for module in filter(None, request.options.get("modules", "").split(",")):
        import_module(module.strip())
    if zipfile.is_zipfile(path):
        if path.suffix != ".keras":
            raise ModelError(
                "it is a zip archive, as .keras files are", where=request.source, hint=f"rename it: {path.stem}.keras"
            )
        config = _config(request, path)
    elif path.suffix == ".keras":
        raise ModelError("it is damaged, or no .keras file (a zip archive)", where=request.source)
    else:
        config = _h5_config(request, path)
    _refuse_code(keras, request, config)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        what = f"Keras {keras.__version__} cannot load it: {type(error).__name__}: {_short(error)}"
        hint = "a file of Keras 2: load it with tf_keras and save it as a SavedModel" if path.suffix != ".keras" else ""
        raise ModelError(what, where=request.source, hint=hint) from error


def _config(request: ImportRequest, path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"it is damaged, or no .keras file: {error}", where=request.source) from error


def _h5_config(request: ImportRequest, path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except OSError as error:
        raise ModelError(f"it is damaged, or no HDF5 file: {error}", where=request.source) from error
    if text is None:
        hint = "build the model in Python, load them with model.load_weights, and save it whole: model.save('x.keras')"
        raise ModelError("it holds weights only, and no model", where=request.source, hint=hint)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"its model_config is damaged: {error}", where=request.source) from error


def _refuse_code(keras: Any, request: ImportRequest, config: Any) -> None:
    """Raises ModelError for what would run code of the file, and for classes that nobody registered."""
    for entry in _objects(config):
        kind, module = str(entry["class_name"]), entry.get("module") or ""
        name = (entry.get("config") or {}).get("name", "") if isinstance(entry.get("config"), dict) else ""
        where = f"layer {name!r} is" if name else "it has"
        if kind in ("Lambda", "__lambda__"):
            hint = "write it as a registered layer, or save the model as a SavedModel: model.export(folder)"
            raise ModelError(
                f"{where} a Lambda: Python code in the file, which is not run", where=request.source, hint=hint
            )
        registered = entry.get("registered_name") or kind
        if keras.saving.get_registered_object(registered) is not None:
            continue
        if "module" in entry and module.partition(".")[0] not in ("keras", "builtins", "tf_keras"):
            hint = (
                "import the module that registers it: --import-option modules=MODULE (with "
                "@keras.saving.register_keras_serializable), or save a SavedModel: model.export(folder)"
            )
            raise ModelError(
                f"{where} a custom {kind}{f' of module {module}' if module else ''}", where=request.source, hint=hint
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object of a Keras configuration; iterative, since files may be nested deeply."""
    stack = [config]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if "class_name" in one:
                yield one
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def _keras_function(tf: Any, keras: Any, request: ImportRequest, model: Any) -> Function:
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        folder = request.folder / "saved_model"
        try:
            model.export(str(folder), format="tf_saved_model", verbose=False)
        except Exception as error:
            hint = "call the model once before it is saved, so that its input shapes are kept"
            raise ModelError(f"Keras cannot export it: {_short(error)}", where=request.source, hint=hint) from error
        return _saved_model(tf, request, folder)
    specs = batch_named([as_spec(_plain(each.name), each) for each in model.inputs])
    structure = _structure(model, "input")
    outputs = _output_names(keras, model)
    size = sum(int(v.shape.num_elements() or 1) * 4 for v in (w.value for w in model.weights))

    recurrent = Recurrent(tf, keras)

    def call(*args: Any) -> Sequence[Any]:
        with recurrent.kept():
            found = model(keras.tree.pack_sequence_as(structure, list(args)), training=False)
        return list(keras.tree.flatten(found))

    return Function(_unique(specs), outputs, call, size, recurrent.handlers())


def _structure(model: Any, which: str) -> Any:
    """Its inputs or outputs, nested as the model takes and gives them. A Sequential model has one of each."""
    flat = getattr(model, f"{which}s")
    try:
        return getattr(model, which)
    except AttributeError:
        return flat[0] if len(flat) == 1 else list(flat)


def _output_names(keras: Any, model: Any) -> list[str]:
    """Names of a dict of outputs, else of the layers that make them."""
    structure = _structure(model, "output")
    if isinstance(structure, dict):
        return [str(path[-1]) for path, _ in keras.tree.flatten_with_path(structure)]
    names = list(getattr(model, "output_names", None) or [_plain(each.name) for each in model.outputs])
    times, seen = Counter(names), Counter[str]()
    result = []
    for name in names:
        result.append(f"{name}_{seen[name]}" if times[name] > 1 else name)
        seen[name] += 1
    return result


def _unique(specs: Sequence[Spec]) -> list[Spec]:
    if len({spec.name for spec in specs}) == len(specs):
        return list(specs)
    return [Spec(f"{spec.name}_{number}", spec.dtype, spec.dims) for number, spec in enumerate(specs)]


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]} ..."
