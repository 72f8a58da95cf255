"""On a GPU: the lines of a profile add up to what was measured, and name the nodes that were exported.

Numbers go to $OUT/profile_lines.json. Networks are exported with random weights; a case takes 10 to 20 s.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

pytestmark = pytest.mark.gpu
CASES = [("resnet50", "tf32"), ("resnet50", "fp16"), ("bert6", "tf32"), ("bert6", "fp16"), ("swin_t", "fp16"),
         ("vit_b", "fp16"), ("retinanet", "tf32")]  # fmt: skip


def detector(batch: int = 4) -> tuple[Any, dict[str, Any]]:
    """RetinaNet as far as its boxes are chosen: ResNet-50, feature pyramid, heads over five levels."""
    torch = importlib.import_module("torch")
    detection = importlib.import_module("torchvision.models.detection")

    class Heads(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)

        def forward(self, x: Any) -> Any:
            found = self.inner.head(list(self.inner.backbone(x).values()))
            return torch.cat([found["cls_logits"], found["bbox_regression"]], 2)

    torch.manual_seed(0)
    return Heads().eval(), {"x": torch.rand(batch, 3, 320, 320)}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> ONNX file, exported once."""
    pytest.importorskip("torch")
    makers = importlib.import_module("tests.bench.precision_gpu")
    folder, files = tmp_path_factory.mktemp("networks"), {}

    def network(name: str) -> Path:
        if name not in files:
            made = detector() if name == "retinanet" else makers.made(name)
            files[name] = makers.exported(*made, folder / f"{name}.onnx")
        return files[name]

    return network


def graphopt(*words: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def keep(case: str, value: dict[str, Any]) -> None:
    path = Path(os.environ.get("OUT", ".")) / "profile_lines.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, case: value}, indent=1))


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_lines_add_up_to_the_launch_and_name_source_nodes(
    networks: Any, name: str, precision: str, tmp_path: Path
) -> None:
    """Within 10 % of a launch, as the profile and as `bench` measure it; at least 95 % of the time has sources."""
    path, engine = networks(name), tmp_path / f"{name}.engine"
    graphopt("build", path, "-o", engine, "--precision", precision, "--verify", "none", "--no-cache")
    found = graphopt("profile", engine, "--seconds", "0.5")
    [row] = [one for one in graphopt("bench", engine, "--seconds", "0.5")["rows"] if one["device_ms"]]
    launch, benched = found["launch_ms"]["median"], row["device_ms"]["median"]
    by: Counter[str] = Counter()
    for layer in found["layers"]:
        by[layer["by"]] += layer["ms"] / found["layers_ms"]
    exported = {node.name for node in onnx.load(path, load_external_data=False).graph.node}
    unknown = {one for layer in found["layers"] for one in layer["sources"]} - exported
    costliest = sorted(found["layers"], key=lambda layer: -layer["ms"])[:3]
    keep(
        f"{name} {precision}",
        {
            "layers": len(found["layers"]),
            "sum_ms": found["layers_ms"],
            "alone_ms": found["alone_ms"],
            "launch_ms": launch,
            "bench_ms": benched,
            "named": found["named"],
            "named_by": {kind: round(share, 4) for kind, share in by.items()},
            "unknown": sorted(unknown),
            "costliest": [[one["name"], one["ms"], one["sources"][:4]] for one in costliest],
        },
    )
    assert found["layers_ms"] == pytest.approx(launch, rel=0.1)
    assert found["layers_ms"] == pytest.approx(benched, rel=0.1)
    assert found["named"] >= 0.95
    assert not unknown
