"""What TensorRT's parsers take, as data: measured with TensorRT-RTX 1.6.1 and 1.7.1 on ONNX's operator tests."""

from __future__ import annotations

CONSTANT_SLOTS: dict[str, tuple[int, ...]] = {
    **{
        f"Reduce{kind}": (1,)
        for kind in "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split()
    },
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
    "ReverseSequence": (),
}
"""Operands that must be known when the model is parsed."""
