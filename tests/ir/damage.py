"""Ways to damage a model: bytes of the file, and fields of the message."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

STRINGS = (
    "",
    "x",
    "y",
    "h",
    "w",
    "t",
    "If",
    "Scale",
    "local",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "__proto__",
    "ü" * 40,
    "n" * 100_000,
)
INTEGERS = (-1, 0, 1, 2, 3, 7, 22, 99, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63))
KINDS = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64, FieldDescriptor.CPPTYPE_UINT64: 63}


@st.composite
def damaged_bytes(draw: Any, whole: bytes) -> bytes:
    """One to four bytes replaced, removed or inserted."""
    raw = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw) - 1))
        kind = draw(st.sampled_from(("replace", "flip", "remove", "insert")))
        if kind == "replace":
            raw[at] = draw(st.integers(0, 255))
        elif kind == "flip":
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "remove":
            del raw[at : at + draw(st.integers(1, 8))]
        else:
            raw[at:at] = draw(st.binary(min_size=1, max_size=4))
        if not raw:
            break
    return bytes(raw)


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, content in message.ListFields():
        if field.message_type is not None:
            for item in content if field.is_repeated else [content]:
                found += _messages(item)
    return found


@st.composite
def damaged_fields(draw: Any, whole: onnx.ModelProto) -> onnx.ModelProto:
    """One to three fields anywhere in the message removed, repeated, reordered or given a foul value."""
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    for _ in range(draw(st.integers(1, 3))):
        message = draw(st.sampled_from(_messages(model)))
        fields = list(message.DESCRIPTOR.fields)
        present = [field for field, _ in message.ListFields()]
        field = draw(st.sampled_from(present * 4 + fields))
        _hurt(draw, message, field)
    return model


def _hurt(draw: Any, message: Any, field: Any) -> None:
    content = getattr(message, field.name)
    if field.is_repeated and len(content) and draw(st.booleans()):
        at = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(("remove", "repeat", "first")))
        items = list(content)
        items = {"remove": items[:at] + items[at + 1 :], "repeat": [*items, items[at]], "first": [items[at], *items]}[
            kind
        ]
        if field.message_type is not None:
            items = [type(item).FromString(item.SerializeToString()) for item in items]
        message.ClearField(field.name)
        getattr(message, field.name).extend(items)
        return
    if field.message_type is not None:
        if not field.is_repeated:
            message.ClearField(field.name)
        return
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = draw(st.sampled_from(STRINGS))
        made: Any = text.encode()[:50] if field.type == FieldDescriptor.TYPE_BYTES else text
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        made = draw(st.sampled_from([value.number for value in field.enum_type.values]))
    elif field.cpp_type in KINDS:
        limit = 2 ** (KINDS[field.cpp_type] - 1)
        made = max(min(draw(st.sampled_from(INTEGERS)), limit - 1), -limit)
        made = abs(made) if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else made
    else:
        made = draw(st.sampled_from((0.0, float("nan"), float("inf"), -1e30)))
    if not field.is_repeated:
        setattr(message, field.name, made)
    elif len(content) and draw(st.booleans()):
        content[draw(st.integers(0, len(content) - 1))] = made
    else:
        content.append(made)
