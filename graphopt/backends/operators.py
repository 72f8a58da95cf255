"""What TensorRT's parser and builder refuse, as data: measured over ONNX's 2,024 operator models.

With TensorRT-RTX 1.6.1 and 1.7.1 (tests/bench/legalize.py), which agree in all that stands here. Where no TensorRT is
installed, this table stands in for the parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CONSTANT_SLOTS: dict[str, tuple[int, ...]] = {
    **{f"Reduce{kind}": (1,) for kind in "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split()},
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "OneHot": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Pad": (1, 3),
    "Split": (1,),
    "CumSum": (1,),
    "CumProd": (1,),
    "STFT": (1, 3),
    "DFT": (1, 2),
    "Tile": (1,),
    "TopK": (1,),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "CenterCropPad": (1,),
    "BlackmanWindow": (0,),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "Col2Im": (1, 2),
    "AffineGrid": (1,),
    "SplitToSequence": (1,),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Dropout": (1, 2),
    "Trilu": (1,),
    "Loop": (0,),
    "NonMaxSuppression": (2, 3, 4),
    "MaxUnpool": (2,),
}
"""Operands that must be known when the model is parsed."""

REFUSED = frozenset(
    "Adagrad Adam AffineGrid ArrayFeatureExtractor Bernoulli Binarizer BitCast BitShift BitwiseAnd BitwiseNot "
    "BitwiseOr BitwiseXor CausalConvWithState CenterCropPad Col2Im Compress ConvInteger CumProd DFT DeformConv Det "
    "DynamicQuantizeLinear FlexAttention Gradient ImageDecoder LinearAttention MatMulInteger MaxUnpool Momentum "
    "NegativeLogLikelihoodLoss NonZero Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul "
    "RoiAlign SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
    "ConcatFromSequence SoftmaxCrossEntropyLoss SplitToSequence SwiGLU TfIdfVectorizer TreeEnsemble Unique "
    "LabelEncoder StringConcat StringNormalizer StringSplit RegexFullMatch".split()
)
"""Operators of which no form is parsed."""

UNBUILDABLE = frozenset(("NonMaxSuppression",))
"""Operators that are parsed and then cannot be built by TensorRT-RTX, which has no plugins."""

BY_PLUGIN = frozenset(("NonZero", "RoiAlign", "DeformConv"))
"""What the same parser takes where NVIDIA's plugins are, as TensorRT has them and TensorRT-RTX has not: TensorRT's
release notes 8.5 (NonZero, RoiAlign, native NonMaxSuppression), 10.0 (reductions of ScatterElements), 10.1
(DeformConv), 10.14 (Attention); TensorRT-RTX 1.7.1 refuses these for want of a plugin, not of an importer."""


@dataclass(frozen=True)
class Table:
    """What is known of one library from a version on, where it cannot be asked."""

    backend: str
    since: tuple[int, int]
    refused: frozenset[str]
    """Operators of which no form is parsed."""
    unbuildable: frozenset[str]
    """Operators that are parsed and then not built."""
    by_plugin: frozenset[str]
    """Operators that a plugin of the library takes, in forms that are spelled out elsewhere."""
    basis: str
    """Where this knowledge comes from."""


_UNPROVED = (
    "what NVIDIA's release notes say, and what TensorRT-RTX 1.7.1's parser, which is built from the same sources, was "
    "measured to take; unproved: TensorRT's own builder needs a GPU"
)
_PLUGINS = BY_PLUGIN | {"ScatterElements"}
TABLES = (
    Table("tensorrt_rtx", (0, 0), REFUSED, UNBUILDABLE, frozenset(), "measured with TensorRT-RTX 1.6.1 and 1.7.1"),
    Table("tensorrt", (0, 0), REFUSED - BY_PLUGIN | {"Attention"}, frozenset(), _PLUGINS, _UNPROVED),
    Table("tensorrt", (10, 14), REFUSED - BY_PLUGIN, frozenset(), _PLUGINS, _UNPROVED),
)


def table(backend: str, version: str = "") -> Table:
    """The table of a library; of its newest version where none is given. Raises KeyError for other backends."""
    parts = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    mine = (parts[0], parts[1]) if len(parts) == 2 else (99, 0)
    found = [one for one in TABLES if one.backend == backend and mine >= one.since]
    if not found:
        raise KeyError(backend)
    return found[-1]


DTYPES = frozenset("float32 float16 bfloat16 float64 int32 int64 int8 uint8 bool float8e4m3fn int4 float4e2m1".split())
"""Dtypes of values that the parser knows."""

REMEDIES = {
    "ImageDecoder": "none: decode images outside of the model",
    "Unique": "none: how many values there are is known at run time only; take it out of the model",
    "TreeEnsemble": "none: TensorRT has no trees",
    "Gradient": "none: TensorRT does not train",
    **dict.fromkeys(
        ("SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SplitToSequence", "SequenceMap"),
        "none while its length is known at run time only, or control flow hands the sequence on",
    ),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), "none where control flow hands it on"),
}
"""What may be done about operators for which there is neither rule nor layer."""

_PLAIN = [
    (r"convertDtype\(onnxDtype|Failed to convert ONN", "a value has a dtype that TensorRT does not have"),
    (r"^false$|^Op type \w+ is not supported in", "TensorRT has no such operator"),
    (r"creator &&|creator:|[Pp]lugin (was )?not found|plugin != nullptr", "TensorRT has no such operator"),
    (r"resolvedWeights|is_weights\(\)|must be an initializer|must resolve to|constant initializer",
     "an operand must be a constant"),
    (r"Pre-opset 7", "the model's opset is older than 7"),
    (r"mode than 1 outputs|only supports \w+ nodes with one output", "only the first output is supported"),
    (r"Unsupported data type for the Cast", "it casts to or from a dtype that TensorRT does not have"),
    (r"UINT8", "uint8 stands only at the engine's inputs and outputs"),
    (r"dilations", "windows with holes are not supported"),
    (r"Found unsupported input type", "it does not take operands of this dtype"),
    (r"shape tensor and must have type", "a shape is computed from a value that is no integer"),
    (r"transformationMode ==|transformationMode\b.*only supports", "this way of mapping coordinates is not supported"),
    (r"antialias ==", "antialiasing is not supported"),
    (r"keep_aspect_ratio_policy", "sizes that keep the aspect ratio are not supported"),
    (r"axesInterlacingNeeded", "axes beside scales are not supported"),
    (r"axis is not a constant", "an operand must be a constant"),
    (r"input types for Range", "it counts in float32, int32 and int64 only"),
    (r"checkCalculationStatusSanity", "a shape is computed from values that are known at run time only"),
    (r"graphScope", "TensorRT-RTX's builder fails over this control flow"),
    (r"extent of dimension i .* of indices|indicesDims.d.i. <= dataDims", "more indices than places along the axis"),
    (r"no optimization profile", "an input decides a shape: bind it with --bind, or give its values"),
]  # fmt: skip


def plain(reason: str) -> str:
    """The parser's reason in plain words; itself where there are none."""
    return next((words for pattern, words in _PLAIN if re.search(pattern, reason)), reason)
