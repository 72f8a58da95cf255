"""Three generations of layer definitions as one: `layer`, and the older `layers`, with a `layer` inside or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.errors import ModelError

from .layer import Layer
from .prototxt import Message

_TYPES = (
    "AbsVal Accuracy ArgMax BNLL Concat Convolution Data Deconvolution Dropout Eltwise Exp Flatten Im2col LRN MVN "
    "Pooling Power ReLU Sigmoid Silence Softmax Split Slice TanH Threshold"
)
_V1_TYPES = {
    **{name.upper(): name for name in _TYPES.split()},
    **{"CONTRASTIVE_LOSS": "ContrastiveLoss", "DUMMY_DATA": "DummyData", "EUCLIDEAN_LOSS": "EuclideanLoss"},
    **{"HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss", "IMAGE_DATA": "ImageData"},
    **{"INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "MEMORY_DATA": "MemoryData"},
    **{"MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss", "WINDOW_DATA": "WindowData"},
    **{"SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SOFTMAX_LOSS": "SoftmaxWithLoss"},
    **{"BN": "BN", "PRELU": "PReLU", "ELU": "ELU", "UPSAMPLE": "Upsample", "INTERP": "Interp", "PERMUTE": "Permute"},
}
_V0_TYPES = {
    **{"conv": "Convolution", "innerproduct": "InnerProduct", "pool": "Pooling", "relu": "ReLU", "lrn": "LRN"},
    **{"softmax": "Softmax", "softmax_loss": "SoftmaxWithLoss", "dropout": "Dropout", "concat": "Concat"},
    **{"flatten": "Flatten", "sigmoid": "Sigmoid", "tanh": "TanH", "split": "Split", "bnll": "BNLL", "data": "Data"},
    **{"accuracy": "Accuracy", "argmax": "ArgMax", "eltwise": "Eltwise", "images": "ImageData", "mvn": "MVN"},
    **{"euclidean_loss": "EuclideanLoss", "hinge_loss": "HingeLoss", "power": "Power", "slice": "Slice"},
}
_V0_FIELDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "Convolution": (
        "convolution_param",
        {"num_output": "num_output", "biasterm": "bias_term", "pad": "pad", "kernelsize": "kernel_size"}
        | {"group": "group", "stride": "stride"},
    ),
    "InnerProduct": ("inner_product_param", {"num_output": "num_output", "biasterm": "bias_term"}),
    "Pooling": ("pooling_param", {"pool": "pool", "pad": "pad", "kernelsize": "kernel_size", "stride": "stride"}),
    "LRN": ("lrn_param", {"local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k"}),
    "Concat": ("concat_param", {"concat_dim": "concat_dim"}),
    "Data": ("data_param", {"batchsize": "batch_size", "cropsize": "crop_size"}),
    "ImageData": ("image_data_param", {"batchsize": "batch_size", "cropsize": "crop_size"}),
}


def layers_of(message: Message, stages: Sequence[str]) -> list[Layer]:
    """The layers of phase TEST, in order, as `layer` defines them."""
    if "layer" in message and "layers" in message:
        raise ModelError("it has `layer` and `layers`: one generation a file", where=message.where)
    state = message.message("state")
    given = {*state.words("stage"), *stages}
    level = state.integer("level", 0)
    found = []
    for one in message.messages("layer"):
        if _included(one, level, given):
            found.append(_layer(one, one.text("name", ""), one.text("type"), _names(one)))
    for one in message.messages("layers"):
        if _included(one, level, given):
            found.append(_v0(one) if "layer" in one else _v1(one))
    return found


def _layer(message: Message, name: str, kind: str, names: list[str]) -> Layer:
    shared = {index: key for index, key in enumerate(names) if key}
    return Layer(name or kind, kind, message.words("bottom"), message.words("top"), message, shared=shared)


def _names(message: Message) -> list[str]:
    return [one.text("name", "") for one in message.messages("param")]


def _v1(message: Message) -> Layer:
    kind = message.text("type")
    return _layer(message, message.text("name", ""), _V1_TYPES.get(kind.upper(), kind), message.words("param"))


def _v0(message: Message) -> Layer:
    """`layers { layer { name: "c" type: "conv" num_output: 8 } bottom: "x" top: "y" }`."""
    inner = message.message("layer")
    kind = inner.text("type")
    if kind == "padding":
        raise ModelError(
            f"layer {inner.text('name', '')}: padding layers went out of use in 2013",
            where=inner.where,
            hint="upgrade_net_proto_text of Caffe makes a newer file of it",
        )
    made: dict[str, list[Any]] = {}
    param, fields = _V0_FIELDS.get(_V0_TYPES.get(kind, ""), ("", {}))
    if param:
        values = {fields[name]: given for name, given in inner.values.items() if name in fields}
        made[param] = [Message(inner.where, values)]
    outer = Message(inner.where, {**message.values, **made})
    return _layer(outer, inner.text("name", ""), _V0_TYPES.get(kind, kind), [])


def _included(message: Message, level: int, stages: set[str]) -> bool:
    include, exclude = message.messages("include"), message.messages("exclude")
    if include and exclude:
        raise ModelError(f"layer {message.text('name', '')} has include and exclude: one of them", where=message.where)
    if include:
        return any(_meets(rule, level, stages) for rule in include)
    return not any(_meets(rule, level, stages) for rule in exclude)


def _meets(rule: Message, level: int, stages: set[str]) -> bool:
    return (
        ("phase" not in rule or rule.choice("phase", "TEST", {0: "TRAIN", 1: "TEST"}) == "TEST")
        and rule.integer("min_level", level) <= level <= rule.integer("max_level", level)
        and set(rule.words("stage")) <= stages
        and not set(rule.words("not_stage")) & stages
    )
