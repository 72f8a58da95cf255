"""Every name of the native API that the backend uses, held against the real bindings."""

import ast
import inspect

import onnx
import pytest

from graphopt.backends import BuildOptions, configure, native
from graphopt.backends.protocol import onnx_dtype
from graphopt.backends.tensorrt import FLAVORS


class Silent:
    def send(self, **message):
        pass

    def at_node(self, node):
        pass


@pytest.fixture(params=list(FLAVORS))
def flavor(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed", exc_type=ImportError)
    return FLAVORS[request.param]


def test_every_name_exists(flavor):
    """Each `trt.A.B` in the source is looked up in the bindings."""
    module = native.load(flavor)
    names = {
        ast.unparse(node)
        for module_ in (native, configure)
        for node in ast.walk(ast.parse(inspect.getsource(module_)))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("trt.")
    }
    if not flavor.picks_compute_capability:
        names = {name for name in names if "ComputeCapability" not in name}
    assert len(names) > 7
    for name in names:
        found = module
        for part in name.split(".")[1:]:
            found = getattr(found, part)


def test_every_method_exists(flavor):
    trt = native.load(flavor)
    used = {
        trt.Builder: (
            "create_network",
            "create_builder_config",
            "create_optimization_profile",
            "build_serialized_network",
        ),
        trt.INetworkDefinition: ("num_layers", "get_layer", "num_inputs", "get_input", "num_outputs", "get_output"),
        trt.OnnxParser: ("parse_from_file", "num_errors", "get_error"),
        trt.ParserError: ("node", "node_name", "node_operator", "desc"),
        trt.IOptimizationProfile: ("set_shape", "set_shape_input"),
        trt.ITensor: (
            "shape",
            "dtype",
            "is_network_input",
            "is_shape_tensor",
            "get_dimension_name",
            "set_dimension_name",
        ),
        trt.IBuilderConfig: (
            "builder_optimization_level",
            "set_memory_pool_limit",
            "clear_flag",
            "add_optimization_profile",
            "progress_monitor",
        ),
        trt.IProgressMonitor: ("phase_start", "step_complete", "phase_finish"),
    }
    missing = [
        f"{owner.__name__}.{name}" for owner, names in used.items() for name in names if not hasattr(owner, name)
    ]
    assert missing == []
    has_setter = hasattr(trt.IBuilderConfig, "set_compute_capability")
    assert has_setter == hasattr(trt.IBuilderConfig, "num_compute_capabilities") == flavor.picks_compute_capability


def test_dtypes_are_those_of_onnx(flavor):
    trt = native.load(flavor)
    known = {name.lower() for name in dict(onnx.TensorProto.DataType.items())} | {"float32"}
    assert {onnx_dtype(name) for name in trt.DataType.__members__} <= known


def test_logger_and_monitor_can_be_instantiated(flavor):
    trt = native.load(flavor)
    log = native._logger(trt, Silent(), verbose=True)
    log.log(trt.ILogger.Severity.ERROR, "broken")
    assert log.errors == ["broken"]
    monitor = native._monitor(trt, Silent())
    monitor.phase_start("p", None, 2)
    assert monitor.step_complete("p", 0) is True
    monitor.phase_finish("p")


def test_networks_are_strongly_typed():
    flavor = FLAVORS["tensorrt_rtx"]
    trt = pytest.importorskip(flavor.module, reason=f"{flavor.module} is not installed")
    builder = trt.Builder(native._logger(trt, Silent(), verbose=False))
    network = builder.create_network(native._strongly_typed(trt))
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert BuildOptions().tf32 == builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)
