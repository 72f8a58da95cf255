"""Hostile models from a seed: bytes, fields and structure of healthy models, damaged in one to three places."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import TensorProto, helper, numpy_helper

from graphopt.testing import model as text_model
from tests.ir.damage import INTEGERS, KINDS, STRINGS
from tests.ir.models import rich
from tests.ir.operator_models import cases

Mutation = Callable[[random.Random, onnx.ModelProto], None]
DIMS = (0, 1, 2, 7, -1, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
NUMBERS = (*INTEGERS, 1000, 10**9, 10**12)


@cache
def bases() -> tuple[bytes, ...]:
    """Small models of every operator, and some that many passes look at."""
    texts = [
        """g (float[N,3,8,8] x) => (float[N,4] y) {
            c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n)
            p = GlobalAveragePool(r) f = Flatten(p) y = Softmax(f) }""",
        """g (float[N,6] x) => (float[N,3,2] y) {
            h = Shape(x) z = Constant<value_int=0>() d = Gather(h, z) a = Constant<value_ints=[0]>()
            u = Unsqueeze(d, a) t = Constant<value_ints=[3,2]>() k = Concat<axis=0>(u, t) r = Reshape(x, k)
            e = Transpose<perm=[0,2,1]>(r) y = Transpose<perm=[0,2,1]>(e) }""",
        """g (float[2,3] x) => (float[2,3] y) {
            n = Constant<value_ints=[2,3]>() o = ConstantOfShape(n) q = Expand(x, n) a = Add(q, o)
            i = Constant<value_ints=[0,0]>() b = Pad(a, k) c = Slice(b, i, n) d = Mul(c, o) y = Sub(d, o) }""",
    ]
    weights: list[dict[str, Any]] = [{"w": (4, 3, 3, 3), "s": (4,), "b": (4,), "m": (4,), "v": (4,)}, {}, {}]
    made = [text_model(text, weights=shapes) for text, shapes in zip(texts, weights, strict=True)]
    made[2].graph.initializer.append(helper.make_tensor("k", TensorProto.INT64, [4], [0, 0, 0, 0]))
    made += [rich()] * 3
    found = [one.SerializeToString() for one in made] * 20
    for case in cases()[::3]:
        raw = case.model().SerializeToString()
        if len(raw) < 20_000:
            found.append(raw)
    return tuple(found)


def hostile(seed: int) -> bytes:
    """The bytes of case number `seed`; the same on every machine."""
    rng = random.Random(seed)
    raw = rng.choice(bases())
    if rng.random() < 0.2:
        return _bytes(rng, raw)
    model = onnx.ModelProto.FromString(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(rng, model)
    try:
        return bytes(model.SerializeToString())
    except Exception:  # nested too deep for protobuf to write: no file can hold it
        return raw[: len(raw) // 2]


def _bytes(rng: random.Random, raw: bytes) -> bytes:
    made = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) or 1)
        kind = rng.randrange(5)
        if kind == 0 and made:
            made[at] = rng.randrange(256)
        elif kind == 1 and made:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del made[at : at + rng.randint(1, 8)]
        elif kind == 3:
            made[at:at] = rng.randbytes(rng.randint(1, 6))
        else:
            del made[at:]
    return bytes(made)


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, content in message.ListFields():
        if field.message_type is not None:
            for item in content if field.is_repeated else [content]:
                found += _messages(item)
    return found


def _field(rng: random.Random, model: onnx.ModelProto) -> None:
    """Any field of any message removed, repeated or given a foul value."""
    message = rng.choice(_messages(model))
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present * 4 + list(message.DESCRIPTOR.fields))
    content = getattr(message, field.name)
    if field.is_repeated and len(content) and rng.random() < 0.5:
        at = rng.randrange(len(content))
        if rng.random() < 0.5:
            del content[at]
        else:
            item = content[at]
            content.extend([type(item).FromString(item.SerializeToString()) if field.message_type else item])
        return
    if field.message_type is not None:
        if not field.is_repeated:
            message.ClearField(field.name)
        return
    value: Any
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice((*STRINGS, "m" * 1_000_000)) if rng.random() < 0.7 else rng.choice(_names(model) or ["x"])
        value = text.encode()[:50] if field.type == FieldDescriptor.TYPE_BYTES else text
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        value = rng.choice([one.number for one in field.enum_type.values])
    elif field.cpp_type in KINDS:
        limit = 2 ** (KINDS[field.cpp_type] - 1)
        value = max(min(rng.choice(NUMBERS), limit - 1), -limit)
        value = abs(value) if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else value
    else:
        value = rng.choice((0.0, float("nan"), float("inf"), -1e30, 1e-40))
    if not field.is_repeated:
        setattr(message, field.name, value)
    elif len(content) and rng.random() < 0.5:
        content[rng.randrange(len(content))] = value
    else:
        content.append(value)


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    found = {name for node in graph.node for name in (*node.input, *node.output)}
    return sorted(found | {value.name for value in (*graph.input, *graph.output, *graph.initializer)})


def _node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    graph = model.graph
    if not graph.node:
        graph.node.add(op_type="Identity", input=["x"], output=["fresh"])
    node = rng.choice(graph.node)
    for attribute in node.attribute:
        if attribute.HasField("g") and attribute.g.node and rng.random() < 0.6:
            node = rng.choice(attribute.g.node)
    return node


def _rewire(rng: random.Random, model: onnx.ModelProto) -> None:
    """An input that comes from anywhere: a cycle, another dtype, a value of a body, itself, nothing."""
    node = _node(rng, model)
    name = rng.choice([*_names(model), "", "no such value"])
    if node.input and rng.random() < 0.8:
        node.input[rng.randrange(len(node.input))] = name
    else:
        node.input.extend([name] * rng.choice((1, 1, 2, 300)))


def _duplicate(rng: random.Random, model: onnx.ModelProto) -> None:
    """Two values, nodes or ports of one name."""
    node = _node(rng, model)
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice([*_names(model), ""])


def _operator(rng: random.Random, model: onnx.ModelProto) -> None:
    """Another operator over the same operands: wrong arity, dtypes and attributes."""
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas()})
    _node(rng, model).op_type = rng.choice(names)


def _attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    """An attribute with a foul value or of another type."""
    node = _node(rng, model)
    named = ("axis", "axes", "perm", "group", "pads", "strides", "dilations", "kernel_shape", "to", "equation", "mode")
    names = [attribute.name for attribute in node.attribute] * 3 + list(named)
    name = rng.choice(names)
    for index, attribute in enumerate(node.attribute):
        if attribute.name == name and rng.random() < 0.9:
            del node.attribute[index]
            break
    length = rng.choice((0, 1, 2, 3, 4, 8, 100))
    value: Any = rng.choice(
        (
            rng.choice(NUMBERS),
            [rng.choice(NUMBERS) for _ in range(length)],
            [rng.choice((0, 1, -1, 2)) for _ in range(length)],
            1e30,
            "ij,jk->ik" * rng.choice((1, 1, 50)),
        )
    )
    made = helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS if value == [] else None)
    node.attribute.append(made)


def _constant(rng: random.Random, model: onnx.ModelProto) -> None:
    """Other values, shapes, types or lengths of a weight."""
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    kind = rng.randrange(5)
    if kind == 0:
        tensor.dims[:] = [rng.choice(DIMS) for _ in range(rng.randint(0, 4))]
    elif kind == 1:
        tensor.data_type = rng.randrange(30)
    elif kind == 2:
        tensor.raw_data = rng.randbytes(rng.choice((0, 1, 3, 8, 64, 1000)))
    else:
        try:
            array = numpy_helper.to_array(tensor).copy()
            if array.dtype.kind == "i" and array.size:
                flat = array.reshape(-1)
                limit = 2 ** (8 * array.dtype.itemsize - 1)
                flat[rng.randrange(flat.size)] = max(min(rng.choice(NUMBERS), limit - 1), -limit)
            elif array.dtype.kind == "f" and array.size:
                array.reshape(-1)[rng.randrange(array.size)] = rng.choice((float("nan"), float("inf"), 0.0, -1e30))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        except Exception:
            tensor.ClearField("raw_data")


def _type(rng: random.Random, model: onnx.ModelProto) -> None:
    """A declared type or shape that is not so."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not values:
        return
    tensor = rng.choice(values).type.tensor_type
    if rng.random() < 0.4:
        tensor.elem_type = rng.randrange(30)
    else:
        tensor.ClearField("shape")
        for _ in range(rng.choice((0, 1, 2, 4, 6, 100))):
            dim = tensor.shape.dim.add()
            if rng.random() < 0.7:
                dim.dim_value = rng.choice(DIMS)
            else:
                dim.dim_param = rng.choice(("N", "", "a+b", "-1", "N" * 10_000))


def _external(rng: random.Random, model: onnx.ModelProto) -> None:
    """A weight that says it lies in a file: absolute, climbing, a link, a device, beyond the end."""
    tensors = list(model.graph.initializer) or [model.graph.initializer.add(name="w", data_type=1, dims=[4])]
    tensor = rng.choice(tensors)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = (
        "data.bin",
        "../secret.bin",
        "/etc/passwd",
        "link.bin",
        "loop.bin",
        "deep/../../secret.bin",
        "",
        "\0",
        ".",
    )
    for key, texts in (
        (
            "location",
            (*places, "folder", "n" * 5000, "//data.bin", "..\\secret.bin", "/dev/zero", "folderlink/secret.bin"),
        ),
        ("offset", ("0", "4", "-4", "1e9", "9" * 30, "", "0x10", "4096")),
        ("length", ("16", "0", "-1", "9" * 30, "4096", "")),
    ):
        if rng.random() < (1.0 if key == "location" else 0.6):
            tensor.external_data.add(key=key, value=rng.choice(texts))


def _function(rng: random.Random, model: onnx.ModelProto) -> None:
    """Functions that call themselves, each other, nothing, or standard operators by name."""
    names = ["f", "g", rng.choice(("Relu", "Add", "h"))]
    for name in names[: rng.randint(1, 3)]:
        call = helper.make_node(rng.choice([*names, "Relu"]), ["a"], ["b"], domain=rng.choice(("", "l", "l")))
        made = helper.make_function(
            rng.choice(("l", "l", "")), name, ["a"], ["b"], [call], [helper.make_opsetid("", 17)]
        )
        made.opset_import.add(domain="l", version=1)
        model.functions.append(made)
    if rng.random() < 0.8:
        model.opset_import.add(domain="l", version=1)
    node = _node(rng, model)
    node.domain, node.op_type = "l", rng.choice(names)


def _deep(rng: random.Random, model: onnx.ModelProto) -> None:
    """Ifs in Ifs."""
    graph = model.graph
    inner = helper.make_graph([], "leaf", [], [])
    inner.node.add(op_type="Identity", input=[rng.choice(_names(model) or ["x"])], output=["leaf"])
    inner.output.add(name="leaf")
    for level in range(rng.choice((1, 3, 10, 25))):
        outer = helper.make_graph([], f"level{level}", [], [])
        node = outer.node.add(op_type="If", input=[rng.choice(_names(model) or ["x"])], output=[f"level{level}"])
        for name in ("then_branch", "else_branch")[: rng.choice((2, 2, 2, 1)) if level < 8 else 1]:
            node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g.CopyFrom(inner)
        outer.output.add(name=f"level{level}")
        inner = outer
    graph.node.extend(inner.node)


def _bomb(rng: random.Random, model: onnx.ModelProto) -> None:
    """Few bytes that ask for terabytes, or for ever."""
    graph = model.graph
    big = rng.choice((10**6, 10**9, 10**12, 2**62))
    constants = {"big": [big], "one": [1], "two": [big, big], "pads": [0, big], "zero": [0]}
    for name, values in constants.items():
        graph.initializer.append(helper.make_tensor(f"bomb_{name}", TensorProto.INT64, [len(values)], values))
    for name, number in (("start", 0), ("limit", big), ("step", 1)):
        graph.initializer.append(helper.make_tensor(f"bomb_{name}", TensorProto.INT64, [], [number]))
    graph.initializer.append(helper.make_tensor("bomb_f", TensorProto.FLOAT, [1], [1.0]))
    graph.initializer.append(helper.make_tensor("bomb_s", TensorProto.FLOAT, [1], [float(big)]))
    kinds = {
        "ConstantOfShape": ["bomb_two"],
        "Expand": ["bomb_f", "bomb_two"],
        "Range": ["bomb_start", "bomb_limit", "bomb_step"],
        "Tile": ["bomb_f", "bomb_big"],
        "Pad": ["bomb_f", "bomb_pads"],
        "Resize": ["bomb_f", "", "bomb_s"],
        "OneHot": ["bomb_zero", "bomb_limit", "bomb_pads"],
        "Upsample": ["bomb_f", "bomb_s"],
        "Reshape": ["bomb_f", "bomb_two"],
        "TopK": ["bomb_f", "bomb_big"],
        "HannWindow": ["bomb_limit"],
        "BlackmanWindow": ["bomb_limit"],
        "EyeLike": ["bomb_two"],
        "SplitToSequence": ["bomb_f", "bomb_big"],
        "RandomNormal": [],
    }
    op = rng.choice(list(kinds))
    node = graph.node.add(op_type=op, input=kinds[op], output=["bomb_out"])
    if op == "RandomNormal":
        node.attribute.append(helper.make_attribute("shape", [big, big]))
    users = rng.choice((["Relu"], ["Shape"], ["Add"], ["Cast"], []))
    for index, user in enumerate(users):
        inputs = ["bomb_out", "bomb_out"] if user == "Add" else ["bomb_out"]
        made = graph.node.add(op_type=user, input=inputs, output=[f"bomb_use{index}"])
        if user == "Cast":
            made.attribute.append(helper.make_attribute("to", 1))
    graph.output.add(name="bomb_use0" if users else "bomb_out").type.tensor_type.elem_type = rng.choice((1, 7))


def _sparse(rng: random.Random, model: onnx.ModelProto) -> None:
    """Sparse weights whose indices lie anywhere."""
    made = model.graph.sparse_initializer.add()
    made.values.CopyFrom(helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0]))
    made.indices.CopyFrom(helper.make_tensor("at", TensorProto.INT64, [2], [rng.choice(NUMBERS), rng.choice(NUMBERS)]))
    made.dims.extend([rng.choice(DIMS) for _ in range(rng.randint(0, 3))])
    _node(rng, model).input.append("sparse")


def _opset(rng: random.Random, model: onnx.ModelProto) -> None:
    """Opsets that are not, are too new, or stand twice."""
    versions = (-1, 0, 1, 5, 9, 11, 13, 18, 21, 26, 99, 2**62)
    model.opset_import.add(domain=rng.choice(("", "", "ai.onnx", "ai.onnx.ml")), version=rng.choice(versions))
    if rng.random() < 0.5:
        del model.opset_import[0]


MUTATIONS: tuple[Mutation, ...] = (
    _field, _field, _rewire, _rewire, _duplicate, _operator, _operator, _attribute, _attribute, _constant, _constant,
    _type, _external, _function, _deep, _bomb, _sparse, _opset,
)  # fmt: skip
