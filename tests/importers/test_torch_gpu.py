"""Engines of PyTorch networks on a GPU: `pytest -m gpu -n 0 tests/importers/test_torch_gpu.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.cli import main

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
pytestmark = pytest.mark.gpu
NETS = "tests.importers.torch_nets"
TF32 = 1e-2


def built(name: str, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """What the engine and what eager PyTorch compute of the network's own examples."""
    import tests.importers.torch_nets as nets

    if name == "detector" and not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        pytest.skip("torchvision's own operators do not load beside this torch")
    with pytest.raises(SystemExit) as left:
        main(["build", f"{NETS}:{name}", "-o", str(folder / "net.engine"), "-q"])
    assert left.value.code == 0
    net, example = getattr(nets, name)()
    args = tuple(example) if isinstance(example, list) else (example,)
    with torch.no_grad():
        wanted = [one for one in torch.utils._pytree.tree_leaves(net.eval()(*args)) if isinstance(one, torch.Tensor)]
    engine = graphopt.Engine(str(folder / "net.engine"))
    feeds = {one: torch.utils._pytree.tree_leaves(args)[0].numpy() for one in engine.inputs}
    return {name: np.asarray(one) for name, one in engine(**feeds).items()}, [one.numpy() for one in wanted]


@pytest.mark.parametrize("name", ["vit", "causal"])
def test_an_engine_computes_what_eager_computes(name: str, tmp_path: Path) -> None:
    found, wanted = built(name, tmp_path)
    for got, one in zip(found.values(), wanted, strict=False):
        assert np.linalg.norm(got - one) < TF32 * np.linalg.norm(one)


def test_a_detector_finds_what_eager_finds(tmp_path: Path) -> None:
    """TF32 may turn a decision that is close: scores agree, and so do three of four boxes."""
    found, (boxes, scores, labels) = built("detector", tmp_path)
    ends = {one.rpartition("_")[2]: got for one, got in found.items()}
    assert abs(len(ends["scores"]) - len(scores)) <= 1
    rows = min(len(ends["scores"]), len(scores))
    np.testing.assert_allclose(ends["scores"][:rows], scores[:rows], atol=0.02)
    same = [
        any(label == kind and np.abs(box - other).max() < 3 for other, kind in zip(boxes, labels, strict=True))
        for box, label in zip(ends["boxes"], ends["labels"], strict=True)
    ]
    assert np.mean(same) >= 0.75
