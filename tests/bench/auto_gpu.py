"""`--precision auto` on a GPU, as it is used: no times are given, engines are built and timed while it searches.

    python tests/bench/auto_gpu.py pack .nets     export the networks, without large random weights (needs torch, timm,
                                                  torchvision, transformers, pillow and rapidocr-onnxruntime; 17 MB)
    python tests/bench/auto_gpu.py run .nets --seconds 500     on a GPU: every network in a process of its own
    python tests/bench/auto_gpu.py run .nets --only swin rec   those whose name holds one of these
    python tests/bench/auto_gpu.py one .nets NAME              one network, in this process

Three plans of each network are held against each other: the model as it is (TF32), the hand rule (float16 but for
norms, softmax and the like), and what auto chose among at most --builds engines. Each is built anew and timed in turns:
medians of CUDA events around CUDA graphs. Two errors: that with rounding after every operator, which the budget is
about, and that of the engine against onnxruntime in float32.

Random weights are made from a seed with the mean and deviation of each output channel of the exported ones; trained
networks travel whole. Results: $OUT/auto.json and $OUT/auto.md, written after every network; one that fails, crashes or
takes more than --each seconds is a line there, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
OUT = Path(os.environ.get("OUT", "."))
BUDGET = 1e-2
SEARCH = 32.0
"""Seconds that a search may take, by what the first engines and the first plan took."""
LARGE = 1 << 14
"""Weights of so many elements are made anew."""
RANDOM = {"resnet50": 8, "vit_s": 8, "bert6": 8, "swin_t": 8, "convnext_t": 8, "mobilenet_v3": 16,
          "efficientnet_b0": 16, "resnet18": 16, "vit_b": 8, "gpt6": 8}  # fmt: skip
"""Network -> batch."""
TRAINED = {"rec": (8, 48, 320), "cls": (32, 48, 192), "det": (8, 320, 320)}


# -- networks ----------------------------------------------------------------------------------------------------


def pack(folder: Path, only) -> None:
    import glob
    import sysconfig

    from precision_gpu import exported

    folder.mkdir(parents=True, exist_ok=True)
    for name, batch in RANDOM.items():
        if wanted(name, only):
            module, inputs = made(name, batch)
            path = exported(module, inputs, folder / f"{name}.onnx")
            model = onnx.load(str(path))
            without_weights(model, folder / f"{name}.weights.npz")
            onnx.save(model, path)
            arrays = {key: value.numpy() for key, value in inputs.items()}
            np.savez_compressed(folder / f"{name}.npz", **{key: np.array(value.shape) if value.dtype == np.float32
                                                           else value for key, value in arrays.items()})  # fmt: skip
            print(name, path.stat().st_size >> 10, "KiB", flush=True)
    places = [os.environ.get("RAPIDOCR", ""), sysconfig.get_path("purelib") + "/rapidocr_onnxruntime/models"]
    for name, (batch, height, width) in TRAINED.items():
        if wanted(name, only):
            found = [file for place in places for file in glob.glob(f"{place}/*{name}*.onnx")]
            model = onnx.load(found[0])
            fix_shape(model, (batch, 3, height, width))
            onnx.save(model, folder / f"{name}.onnx")
            rng = np.random.default_rng(5)
            rows = [page(rng, height) if name == "det" else line(rng, height, width) for _ in range(batch)]
            grey = np.concatenate(rows)[:, :1]
            np.savez_compressed(folder / f"{name}.npz", x=np.clip((grey * 0.5 + 0.5) * 255, 0, 255).astype(np.uint8))
            print(name, flush=True)


def wanted(name, only) -> bool:
    return not only or any(part in name for part in only)


def made(name, batch):
    """(torch module, inputs) from a seed."""
    import timm
    import torch
    import torchvision
    from precision_gpu import _settle_norms

    torch.manual_seed(0)
    if name == "bert6":
        return bert(batch)
    if name == "gpt6":
        return gpt(batch)
    makers = {
        "resnet18": lambda: torchvision.models.resnet18(weights=None),
        "resnet50": lambda: torchvision.models.resnet50(weights=None),
        "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_large(weights=None),
        "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(weights=None),
        "swin_t": lambda: torchvision.models.swin_t(weights=None),
        "vit_s": lambda: timm.create_model("vit_small_patch16_224", pretrained=False),
        "vit_b": lambda: timm.create_model("vit_base_patch16_224", pretrained=False),
        "convnext_t": lambda: timm.create_model("convnext_tiny", pretrained=False),
    }
    module = makers[name]().eval()
    x = torch.randn(batch, 3, 224, 224)
    _settle_norms(module, x)
    return module, {"x": x}


def bert(batch):
    """Six layers of BERT-base with a small vocabulary: the table of words is most bytes, and none of the time."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=2000, num_hidden_layers=6, attn_implementation="eager")

    class Bert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = BertModel(config, add_pooling_layer=False)

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(0, config.vocab_size, (batch, 128))
    return Bert().eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def gpt(batch):
    """Six layers of GPT-2 without its table of words and its head."""
    import torch
    from transformers import GPT2Config, GPT2Model

    class Gpt(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = GPT2Model(GPT2Config(vocab_size=2000, n_layer=6, attn_implementation="eager", use_cache=False))

        def forward(self, x):
            return self.inner(inputs_embeds=x).last_hidden_state

    return Gpt().eval(), {"x": torch.randn(batch, 128, 768)}


def without_weights(model, path: Path) -> None:
    """Take large weights out; mean and deviation along the first axis stay, in a file."""
    kept = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= LARGE:
            rows = values.reshape(values.shape[0], -1)
            kept[tensor.name] = np.stack([rows.mean(1), rows.std(1)]).astype(np.float16)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    np.savez_compressed(path, **kept)


def with_weights(source: Path, target: Path) -> Path:
    """The network with weights of its seed, the same on every machine; its path."""
    archive = source.with_suffix(".weights.npz")
    if not archive.is_file():
        return source
    model = onnx.load(str(source))
    kept = np.load(archive)
    for tensor in model.graph.initializer:
        if tensor.name in kept.files:
            mean, deviation = kept[tensor.name].astype(np.float32)
            rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
            rows = rng.standard_normal((len(mean), int(np.prod(tensor.dims)) // len(mean)), np.float32)
            values = (rows * deviation[:, None] + mean[:, None]).reshape(tuple(tensor.dims))
            tensor.raw_data = values.astype(np.float32).tobytes()
    onnx.save(model, target)
    return target


def inputs_of(path: Path) -> dict[str, np.ndarray]:
    """What is in the file: grey images are made three normalized channels, a shape random numbers of a seed."""
    found = {}
    for name, value in np.load(path).items():
        if value.dtype == np.uint8:
            value = np.repeat((value.astype(np.float32) / 255 - 0.5) / 0.5, 3, axis=1)
        elif name == "x" and value.ndim == 1:
            value = np.random.default_rng(1).standard_normal(tuple(value), np.float32)
        found[name] = value
    return found


def fix_shape(model, dims) -> None:
    """Sizes of the one input as numbers, and what was said of other values forgotten."""
    shape = model.graph.input[0].type.tensor_type.shape
    for dim, size in zip(shape.dim, dims, strict=True):
        dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def line(rng, height, width):
    """A line of rendered text, normalized as the networks want it."""
    from PIL import Image, ImageDraw, ImageFont

    words = "graph tensor engine latency Paris 2024 invoice total $13.50 kernel rounding Transformer INT8 (GPU)".split()
    image = Image.new("L", (width, height), int(rng.integers(200, 256)))
    font = ImageFont.load_default(int(rng.integers(height // 2, int(height * 0.7))))
    ImageDraw.Draw(image).text((6, 2), " ".join(rng.choice(words, 2)), fill=int(rng.integers(0, 90)), font=font)
    pixels = np.asarray(image, np.float32) + rng.normal(0, 4, (height, width))
    return np.broadcast_to((pixels / 255 - 0.5) / 0.5, (1, 3, height, width)).astype(np.float32)


def page(rng, size):
    return np.concatenate([line(rng, 40, size) for _ in range(size // 40)], axis=2)[:, :, :size]


# -- one network -------------------------------------------------------------------------------------------------


def one(folder: Path, name: str, most: int, save) -> dict:
    """Everything about one network; `save` is called with what is known so far."""
    from precision_gpu import build, casts, error_of, reference, timed

    import graphopt
    from graphopt.precision.contest import HAND_RULE
    from graphopt.precision.stage import Request

    began = time.perf_counter()
    entry: dict = {"budget": BUDGET}
    with tempfile.TemporaryDirectory(prefix="auto-") as made_in:
        path = with_weights(folder / f"{name}.onnx", Path(made_in, "source.onnx"))
        feeds = inputs_of(folder / f"{name}.npz")
        entry["inputs"] = {key: list(value.shape) for key, value in feeds.items()}
        want = reference(path, feeds)
        running = {}

        def add(kind, request):
            row = entry[kind] = {}
            start = time.perf_counter()
            try:
                target = Path(made_in, f"{kind.replace(' ', '_')}.onnx")
                result = graphopt.optimize(str(path), output=target, precision=request, inputs=feeds, lower="never")
                about = result.report.precision or {}
                row["optimize_seconds"] = round(time.perf_counter() - start, 1)
                row["reference_error"] = max(about.get("error", {"": 0.0}).values(), default=0.0)
                row |= {key: about[key] for key in ("tensors", "candidates", "notes") if key in about}
                row["casts"] = casts(target)
                start = time.perf_counter()
                running[kind] = build(target, made_in, kind.replace(" ", "_"), feeds)
                row["engine_seconds"] = round(time.perf_counter() - start, 1)
                row["engine_error"] = error_of(want, running[kind].values())
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            entry["seconds"] = round(time.perf_counter() - began, 1)
            print(f"  {name} {kind}: {json.dumps({k: v for k, v in row.items() if k != 'tensors'})[:700]}", flush=True)
            save(entry)

        add("float32", None)
        words = {"calib": [feeds], "samples": 1}
        add("hand rule", Request("fp16", keep=present(made_in, HAND_RULE), max_error=1e9, **words))
        engine = max(entry[kind].get("engine_seconds", 5.0) for kind in ("float32", "hand rule"))
        trial = entry["hand rule"].get("optimize_seconds", 5.0) / 4
        builds = entry["builds"] = max(4, min(most, int(SEARCH / (engine + trial + 1.5))))
        add("auto", Request("auto", max_error=BUDGET, builds=builds, **words))
        for kind, times in timed(running).items():
            entry[kind] |= times
        entry["verdict"] = verdict(entry)
        entry["seconds"] = round(time.perf_counter() - began, 1)
    save(entry)
    return entry


def present(folder, pattern):
    """The parts of the pattern that match an operator of the optimized model: others would be refused."""
    import re

    kinds = {node.op_type for node in onnx.load(str(Path(folder, "float32.onnx")), load_external_data=False).graph.node}
    return tuple(part for part in pattern.split("|") if any(re.fullmatch(part, kind) for kind in kinds))


def verdict(entry) -> str:
    """Of auto against the valid ones among the others."""
    mine = entry["auto"]
    if "ms" not in mine:
        return "auto failed"
    if mine["reference_error"] > BUDGET:
        return "over the budget"
    rest = {kind: entry[kind]["ms"] for kind in ("float32", "hand rule") if "ms" in entry[kind]
            and entry[kind]["reference_error"] <= BUDGET}  # fmt: skip
    least = min(rest.values(), default=float("inf"))
    ratio = mine["ms"] / least
    return ("faster" if ratio < 0.99 else "equal" if ratio <= 1.01 else "slower") + f" ({ratio:.3f})"


# -- all of them -------------------------------------------------------------------------------------------------


def run(folder: Path, words) -> None:
    start = time.monotonic()
    results: dict = {}
    names = [path.stem for path in sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_size)]
    order = [*TRAINED, *RANDOM]
    for name in sorted(names, key=lambda one: order.index(one) if one in order else len(order)):
        if not wanted(name, words.only):
            continue
        left = words.seconds - (time.monotonic() - start)
        if left < 25:
            results[name] = {"failed": "out of time"}
            continue
        part = OUT / f"auto_{name}.json"
        part.unlink(missing_ok=True)
        command = [sys.executable, __file__, "one", str(folder), name, "--builds", str(words.builds)]
        began = time.monotonic()
        why = ""
        try:
            code = subprocess.run(command, timeout=min(words.each, left), check=False).returncode
            why = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            why = f"stopped after {time.monotonic() - began:.0f} s"
        results[name] = json.loads(part.read_text()) if part.is_file() else {}
        if why:
            results[name]["failed"] = why
        results[name]["process_seconds"] = round(time.monotonic() - began, 1)
        print(f"[{time.monotonic() - start:5.0f} s] {name}: {results[name].get('verdict', why)}", flush=True)
        write(OUT / "auto.json", json.dumps(results, indent=1))
        write(OUT / "auto.md", table(results))
    write(OUT / "auto.json", json.dumps(results, indent=1))
    write(OUT / "auto.md", table(results))
    print(table(results))


def write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def table(results) -> str:
    """Markdown: milliseconds and errors (rounded reference; engine) of each plan."""
    kinds = ("float32", "hand rule", "auto")
    lines = ["| network | float32 (TF32) | hand rule | auto | auto is | chosen from | seconds |", "|" + "---|" * 7]
    for name, entry in results.items():
        cells = []
        for kind in kinds:
            row = entry.get(kind, {})
            if "ms" in row:
                over = "" if row["reference_error"] <= BUDGET else ", over the budget"
                cells.append(f"{row['ms']:.4f} ({row['reference_error']:.2g}; {row['engine_error']:.2g}{over})")
            else:
                cells.append(row.get("failed", "-")[:60])
        notes = [note for note in entry.get("auto", {}).get("notes", ()) if note.startswith("timed on")]
        taken = notes[-1].partition(": ")[2] if notes else entry.get("failed", "")
        lines.append(f"| {name} | {' | '.join(cells)} | {entry.get('verdict', 'failed')} | {taken} | "
                     f"{entry.get('seconds', '-')} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("pack", "run", "one"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=540, help="no network is begun, or goes on, after so many")
    parser.add_argument("--each", type=float, default=120, help="a network is stopped after so many")
    parser.add_argument("--builds", type=int, default=12, help="engines of one search, at most")
    words = parser.parse_args()
    if words.stage == "pack":
        pack(words.folder, words.only)
    elif words.stage == "run":
        run(words.folder, words)
    else:
        path = OUT / f"auto_{words.name}.json"
        one(words.folder, words.name, words.builds, lambda entry: write(path, json.dumps(entry, indent=1)))


if __name__ == "__main__":
    main()
