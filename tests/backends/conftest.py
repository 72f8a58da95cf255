from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from graphopt.backends import get
from graphopt.backends.tensorrt import TensorRTBackend

CONVOLUTION = """<ir_version: 8, opset_import: ["": 17]>
convolution (float[N, 3, H, W] x) => (float[N, 4, H, W] y)
<float[4, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
{
    [conv] c = Conv(x, w)
    [relu] y = Relu(c)
}"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """A model file made of ONNX text."""

    def write(text: str, name: str = "model.onnx") -> Path:
        onnx.save(onnx.parser.parse_model(text), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def convolution(write: Callable[..., Path]) -> Path:
    return write(CONVOLUTION, "convolution.onnx")


@pytest.fixture(scope="session")
def classifier() -> Path:
    """A trained network whose build takes about half a second: time enough to disturb it."""
    found = find_spec("rapidocr_onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("rapidocr-onnxruntime is not installed")
    return Path(found.origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


@pytest.fixture(scope="session")
def rtx() -> TensorRTBackend:
    backend = get("tensorrt_rtx")
    reason = backend.available()
    if reason:
        pytest.skip(reason)
    assert isinstance(backend, TensorRTBackend)
    return backend
