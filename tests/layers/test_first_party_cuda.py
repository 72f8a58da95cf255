"""Every CUDA source of the first-party layers compiles for sm_90 in all its dtypes, without spilling registers."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from itertools import product

import pytest

from graphopt.layers.kernel import HEADERS

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
FLOATS = {"float": 4, "__half": 8, "__nv_bfloat16": 8}
INDICES = ("unsigned", "unsigned long long")


def widths(kind):
    return [1 << k for k in range(4) if 1 << k <= FLOATS[kind]]


FORMS = ("false, false, false", "false, true, false", "true, true, false", "true, true, true")


def norm():
    """center, add, bias: RMSNorm, AddRMSNorm, AddLayerNorm without and with a bias."""
    for kind, form in product(FLOATS, FORMS):
        for width in widths(kind)[:: len(widths(kind)) - 1]:
            for loads in (0, 2, 4, 8, 16):
                if loads * width <= 32:
                    yield f"norm<{kind}, {width}, {loads}, 0, {form}>"
            for group, loads in ((4, 1), (16, 1), (32, 2), (32, 4)):
                yield f"norm<{kind}, {width}, {loads}, {group}, {form}>"


def gated():
    for kind, act, index in product(FLOATS, range(4), INDICES):
        yield from (f"gated<{kind}, {width}, {act}, {index}>" for width in widths(kind))


def rotary():
    for kind, index, heads in product(FLOATS, INDICES, (1, 2, 4)):
        for width, signed in product(widths(kind)[:: len(widths(kind)) - 1], ("false", "true")):
            yield f"halves<{kind}, {width}, {signed}, {heads}, {index}>"


def neighbours():
    for kind, index, heads in product(FLOATS, INDICES, (1, 2, 4)):
        yield f"neighbours<{kind}, 2, false, {heads}, {index}>"
        yield from (f"neighbours<{kind}, {width}, true, {heads}, {index}>" for width in widths(kind)[1:])


WHOLE = {"int": 4, "long long": 2, "signed char": 16, "unsigned char": 16}
ALL = {**FLOATS, "int": 4, "long long": 2}


def bits():
    for kind, most in WHOLE.items():
        for act, single in product(range(6), ("false", "true")):
            yield from (f"bits<{kind}, {1 << k}, {act}, {single}>" for k in range(5) if 1 << k <= most)


def pad():
    for (kind, width), mode in product(ALL.items(), range(3)):
        yield f"pad<{kind}, {width}, {mode}>"


def accumulators():
    for kind in ALL:
        yield ("float" if FLOATS.get(kind) == 8 else kind), kind


def spread():
    for (wide, kind), width in product(accumulators(), (1, 2, 4)):
        if wide != "long long" or width < 4:
            yield f"spread<{wide}, {kind}, {width}>"


def narrow():
    yield from (f"narrow<{kind}, {width}>" for kind in ("__half", "__nv_bfloat16") for width in (1, 2, 4))


def scatter_nd():
    yield from (f"scatter_nd<{wide}, {kind}, {act}>" for (wide, kind), act in product(accumulators(), range(4)))


def scatter_elements():
    yield from (
        f"scatter_elements<{wide}, {kind}, {act}, unsigned>" for (wide, kind), act in product(accumulators(), range(4))
    )


SET = ("float", "__half", "int", "long long", "bool")
VALUES = ("float", "__half", "__nv_bfloat16", "int", "long long")


def compaction():
    yield from (f"count_set<{kind}>" for kind in SET)
    yield from (f"coordinates<{kind}, {rank}, long long>" for kind, rank in product(SET, (1, 3, 8)))
    yield "coordinates<bool, 0, int>"
    yield from (f"kept<{kind}, {width}>" for kind, width in product(VALUES, (1, 2)))


def sampling():
    yield from (f"sample<{kind}, {mode}>" for kind, mode in product(FLOATS, range(3)))


def unpool():
    yield from (f"{name}<{kind}, 2>" for name, kind in product(("clear", "unpool"), FLOATS))


def col2im():
    windows = ("3, 3, 1, 1, 1, 1", "2, 3, 2, 1, 1, 2", "16, 16, 4, 4, 1, 1")
    yield from (f"col2im<{kind}, {window}>" for kind, window in product(FLOATS, windows))


UNIQUE = ("float", "__half", "int", "long long")


def unique():
    for name in ("histogram", "scatter"):
        yield from (f"{name}<{kind}, {first}>" for kind, first in product(UNIQUE, ("true", "false")))
    yield from (f"{name}<{kind}>" for name, kind in product(("count_heads", "unique"), UNIQUE))
    yield from ("scan", "lengths")


def transform():
    lengths = ("256, 16, 16, 16", "512, 64, 8, 8, 8", "200, 40, 8, 5, 5", "4096, 256, 16, 16, 16", "61, 61, 1, 61",
               "4095, 256, 13, 9, 7, 5", "1, 1, 1", "132, 12, 12, 11")  # fmt: skip
    forms = ("0, false, false, 2", "0, true, false, 1", "1, true, false, 1", "2, false, true, 2")
    for kind, (form, length) in product(FLOATS, zip(forms * 2, lengths, strict=True)):
        yield f"transform<{kind}, {form}, {length}>"


def deform():
    for kind, levels in product(FLOATS, (3, 4)):
        yield from (f"deform<{kind}, {width}, {levels}>" for width in (1, FLOATS[kind]))


def boxes():
    yield from ("suppress<true>", "suppress<false>", "gather<long long>")


KERNELS = {
    ("compaction", "COUNT"): compaction,
    ("sampling", "SAMPLE"): sampling,
    ("sampling", "UNPOOL"): unpool,
    ("sampling", "COL2IM"): col2im,
    ("boxes", "SUPPRESS"): boxes,
    ("unique", "UNIQUE"): unique,
    ("stockham", "TRANSFORM"): transform,
    ("deformable", "DEFORM"): deform,
    ("bits", "BITS"): bits,
    ("wrapping", "PAD"): pad,
    ("scatter", "SPREAD"): spread,
    ("scatter", "NARROW"): narrow,
    ("scatter", "SCATTER_ND"): scatter_nd,
    ("scatter", "SCATTER_ELEMENTS"): scatter_elements,
    ("norms", "NORM"): norm,
    ("gated", "GATED"): gated,
    ("rotary", "ROTARY"): rotary,
    ("rotary", "NEIGHBOURS"): neighbours,
}


@pytest.mark.skipif(NVCC is None, reason="there is no nvcc to compile with")
@pytest.mark.parametrize(("module", "name"), KERNELS)
def test_kernel_compiles_for_every_dtype_without_spills(tmp_path, module, name):
    kernel = getattr(importlib.import_module(f"graphopt_layers.{module}"), name)
    expressions = list(KERNELS[module, name]())
    assert any(one.startswith(kernel.name) for one in expressions)
    text = kernel.source + "".join(
        f"\n__device__ void* keep{at} = (void*)&{one};" for at, one in enumerate(expressions)
    )
    source = tmp_path / "kernel.cu"
    source.write_text(text)
    command = [NVCC, "-std=c++17", "-arch=sm_90", "-cubin", "-Xptxas", "-v", f"-I{HEADERS}", *kernel.options]
    done = subprocess.run([*command, "-o", os.devnull, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = [line for line in done.stderr.splitlines() if "Compiling entry function" in line]
    assert len(compiled) == len(expressions)
    spilled = [
        line for line in done.stderr.splitlines() if "bytes spill" in line and "0 bytes spill stores" not in line
    ]
    assert not spilled, spilled
    stack = [line for line in done.stderr.splitlines() if "bytes stack frame" in line and " 0 bytes stack" not in line]
    assert not stack, stack
