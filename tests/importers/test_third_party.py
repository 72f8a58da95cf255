"""The importers that the documentation shows. The heavy ones: pip install jax2onnx paddle2onnx paddlepaddle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Cli, cli
from tests.docs.pages import ROOT, blocks

__all__ = ["cli"]
LIMIT = 1e-5
JAX = """
import jax
import jax.numpy as jnp

keys = jax.random.split(jax.random.key(0), 2)
w1, w2 = jax.random.normal(keys[0], (16, 32)) / 4, jax.random.normal(keys[1], (32, 5)) / 6


def classify(x):
    return jax.nn.softmax(jnp.tanh(x @ w1) @ w2)
"""
PADDLE = """
import paddle

paddle.seed(0)
net = paddle.nn.Sequential(
    paddle.nn.Conv2D(3, 8, 3), paddle.nn.BatchNorm2D(8), paddle.nn.ReLU(), paddle.nn.AdaptiveAvgPool2D(1),
    paddle.nn.Flatten(), paddle.nn.Linear(8, 5),
)
net.eval()
paddle.jit.save(net, "net", input_spec=[paddle.static.InputSpec([None, 3, 32, 32], "float32", "x")])
"""


def documented(name: str) -> str:
    """A file of docs/importers.md."""
    block = next(one for one in blocks(ROOT / "docs" / "importers.md") if one.file == name)
    Path(name).write_text(block.text)
    return name


@pytest.mark.parametrize("name", ["jax", "paddle"])
def test_it_is_listed_without_its_framework(cli: Cli, name: str) -> None:
    done = cli("importers", "--plugin", documented(f"{name}_importer.py"), "--json")
    assert name in {one["name"] for one in done.json["importers"]}


@pytest.mark.heavy
def test_from_jax_to_an_engine(cli: Cli) -> None:
    pytest.importorskip("jax2onnx")
    Path("nets.py").write_text(JAX)
    bounds = ("--min-shapes", "x=1x16", "--shapes", "x=2x16", "--max-shapes", "x=4x16")
    words = ("nets.py:classify", "--from", "jax", "--plugin", documented("jax_importer.py"), *bounds)
    done = cli("optimize", *words, "--build", "--json")
    assert done.code == 0, done.err
    assert done.json["imported"]["status"] == "ok"
    assert max(one["relative_l2"] for one in done.json["imported"]["compared"]) < LIMIT
    assert onnx.load("classify.opt.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.heavy
def test_from_paddle_to_an_engine(cli: Cli) -> None:
    pytest.importorskip("paddle2onnx")
    subprocess.run([sys.executable, "-c", PADDLE], check=True, capture_output=True, env=dict(os.environ))
    words = ("net.pdiparams", "--plugin", documented("paddle_importer.py"), "--shapes", "x=1x3x32x32")
    done = cli("optimize", *words, "--build", "--json")
    assert done.code == 0, done.err
    assert done.json["imported"]["status"] == "ok"
    assert max(one["relative_l2"] for one in done.json["imported"]["compared"]) < LIMIT
