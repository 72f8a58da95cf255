"""From PyTorch to an engine. Heavy: pip install -e '.[rtx,torch,test]' torchvision timm transformers, then
pytest -m heavy tests/importers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.numerics.execute import execute
from tests.cli.conftest import Cli, cli, files

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
pytestmark = pytest.mark.heavy
__all__ = ["cli"]
NETS = "tests.importers.torch_nets"
LIMIT = 1e-5


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def net(name: str) -> Any:
    import tests.importers.torch_nets as nets

    made = getattr(nets, name)()
    return (made[0] if isinstance(made, tuple) else made).eval()


def saved(name: str, *shapes: tuple[int, ...], dtype: Any = None, dynamic: Any = None) -> str:
    """A .pt2 file of a network."""
    args = tuple(torch.ones(shape, dtype=dtype) for shape in shapes)
    program = torch.export.export(net(name), args, dynamic_shapes=dynamic)
    torch.export.save(program, f"{name}.pt2")
    return f"{name}.pt2"


def scripted(name: str, shape: tuple[int, ...]) -> str:
    """A TorchScript file of a network."""
    torch.jit.save(torch.jit.trace(net(name), torch.randn(shape), strict=False), f"{name}.pt")
    return f"{name}.pt"


def _bert_file() -> str:
    rows, length = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("length", min=2, max=512)
    dims = ({0: rows, 1: length}, {0: rows, 1: length})
    return saved("bert", (2, 16), (2, 16), dtype=torch.int64, dynamic=dims)


ids = np.random.default_rng(0).integers(0, 1000, (3, 12))
ARCHITECTURES: dict[str, tuple[str, Callable[[], str], list[str], Callable[[], list[Any]]]] = {
    "classification, a callable": (
        "resnet",
        lambda: f"{NETS}:resnet",
        ["--min-shapes", "x=1x3x224x224", "--shapes", "x=2x3x224x224", "--max-shapes", "x=4x3x224x224"],
        lambda: [np.random.default_rng(0).standard_normal((3, 3, 224, 224), np.float32)],
    ),
    "vision transformer, a callable with inputs": (
        "vit",
        lambda: f"{NETS}:vit",
        [],
        lambda: [np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)],
    ),
    "segmentation, TorchScript": (
        "segmentation",
        lambda: scripted("segmentation", (1, 3, 96, 96)),
        ["--shapes", "x=1x3x96x96"],
        lambda: [np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)],
    ),
    "language, an exported program": (
        "bert",
        _bert_file,
        [
            "--import-option",
            "modules=transformers.modeling_outputs",
            *(
                word
                for option, dims in (("--min-shapes", "2x4"), ("--shapes", "2x16"), ("--max-shapes", "4x32"))
                for word in (option, f"input_ids={dims},attention_mask={dims}")
            ),
        ],
        lambda: [ids, np.ones_like(ids)],
    ),
}


@pytest.mark.parametrize("what", ARCHITECTURES)
def test_from_the_framework_s_own_file_to_an_engine(cli: Cli, what: str, temporary: Path) -> None:
    """One command; the relative L2 difference of the optimized model to eager PyTorch is under 1e-5."""
    name, make, words, inputs = ARCHITECTURES[what]
    done = cli("optimize", make(), *words, "--build", "-o", "out.onnx", "--engine", "out.engine", "--json")
    assert done.code == 0, done.err
    assert done.json["imported"]["status"] == "ok"
    assert all(one["relative_l2"] < LIMIT for one in done.json["imported"]["compared"])
    assert Path("out.engine").stat().st_size > 1000
    arrays = inputs()
    found = execute(Path("out.onnx"), [_named("out.onnx", arrays)]).outputs[0]
    with torch.no_grad():
        wanted = torch.utils._pytree.tree_leaves(net(name)(*map(torch.from_numpy, arrays)))
    wanted = [one for one in wanted if isinstance(one, torch.Tensor)]
    assert len(wanted) == len(found)
    for one, (port, got) in zip(wanted, found.items(), strict=True):
        off = float(np.linalg.norm(got - one.numpy()) / np.linalg.norm(one.numpy()))
        assert off < LIMIT, port
    assert not [name for name in files(temporary) if "graphopt" in name]


@pytest.mark.parametrize(
    ("name", "words", "note"),
    [
        ("causal", [], "use_cache is off"),
        (
            "translator",
            [
                *("--min-shapes", "input_ids=1x4,decoder_input_ids=1x1"),
                *("--shapes", "input_ids=2x12,decoder_input_ids=2x5"),
                *("--max-shapes", "input_ids=4x32,decoder_input_ids=4x16"),
            ],
            "use_cache is off",
        ),
        ("detector", [], "batched_nms"),
    ],
)  # fmt: skip
def test_what_libraries_return_and_decide_is_gone_around(cli: Cli, name: str, words: list[str], note: str) -> None:
    """Caches are no tensors; a detector goes on by the number of its boxes."""
    import tests.importers.torch_nets  # noqa: F401  (it loads torchvision's operators, if they load)

    if name == "detector" and not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        pytest.skip("torchvision's own operators do not load beside this torch")
    found = report(cli("optimize", f"{NETS}:{name}", *words, "--build", "--engine", "out.engine", "--json"))
    assert any(note in one for one in found["notes"])
    assert not any("is empty" in one for one in found["notes"])
    assert all(one["relative_l2"] < LIMIT for one in found["compared"])
    assert Path("out.engine").stat().st_size > 1000


def test_an_object_that_no_graph_returns_is_named(cli: Cli) -> None:
    done = cli("convert", f"{NETS}:Cached", "--shapes", "x=1x3", "--import-option", "exporter=dynamo")
    assert done.code == 1
    assert "it returns an object of class DynamicCache" in done.err
    assert "a module whose forward returns its tensors" in done.err


def _named(path: str, arrays: list[Any]) -> dict[str, Any]:
    ports = onnx.load(path, load_external_data=False).graph.input
    return {port.name: array for port, array in zip(ports, arrays, strict=True)}


def report(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json["imported"]
    assert found["status"] == "ok"
    return found


def test_a_program_whose_results_are_of_a_class_says_what_to_import(cli: Cli) -> None:
    done = cli("convert", _bert_file())
    assert (done.code, "--import-option modules=transformers.modeling_outputs" in done.err) == (1, True), done.err


def test_torchscript_that_returns_a_dictionary(cli: Cli) -> None:
    done = cli("convert", scripted("Named", (1, 3)), "--shapes", "x=1x3")
    assert (done.code, "it returns a dictionary" in done.err) == (1, True), done.err


def test_names_of_inputs_outputs_and_dimensions(cli: Cli) -> None:
    done = cli("convert", f"{NETS}:Recurrent", "--shapes", "token_ids=BxT", "-o", "n.onnx", "--json")
    assert report(done)["samples"] == 2
    made = onnx.load("n.onnx")
    dims = made.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims] == ["B", "T"]
    assert [port.name for port in made.graph.output] == ["states", "last"]


def test_bounds_make_a_dimension_dynamic(cli: Cli) -> None:
    words = ("--min-shapes", "token_ids=1x4", "--max-shapes", "token_ids=1x9")
    report(cli("convert", f"{NETS}:Recurrent", *words, "-o", "n.onnx", "--json"))
    dims = onnx.load("n.onnx").graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_value, dims[1].dim_param) == (1, "token_ids_1")


def test_arguments_weights_and_inputs_of_the_user(cli: Cli) -> None:
    import tests.importers.torch_nets as nets

    torch.manual_seed(7)
    torch.save({"state_dict": nets.Recurrent(4).state_dict()}, "w.pth")
    np.savez("in.npz", token_ids=np.array([[1, 2, 3]]), scale=np.full((1, 3, 1), 2, np.float32))
    options = ("--import-option", 'kwargs={"hidden": 4}', "--import-option", "weights=w.pth")
    done = cli("convert", f"{NETS}:Recurrent", "--inputs", "in.npz", *options, "-o", "n.onnx", "--json")
    assert report(done)["compared"][0]["shape"] == [1, 3, 4]


def test_bfloat16(cli: Cli) -> None:
    assert report(cli("convert", f"{NETS}:half", "-o", "n.onnx", "--json"))["compared"][0]["dtype"] == "bfloat16"


@pytest.mark.parametrize("opset", [18, 21])
def test_the_opset_that_was_asked_for(cli: Cli, opset: int) -> None:
    report(cli("convert", f"{NETS}:half", "--opset", opset, "-o", "n.onnx", "--json"))
    assert onnx.load("n.onnx").opset_import[0].version == opset


def test_a_program_keeps_its_dynamic_dimensions(cli: Cli) -> None:
    source = saved("Recurrent", (2, 5), dtype=torch.int64, dynamic=({0: torch.export.Dim("r")},))
    assert report(cli("convert", source, "-o", "n.onnx", "--json"))["samples"] == 2
    dims = onnx.load("n.onnx").graph.input[0].type.tensor_type.shape.dim
    assert (bool(dims[0].dim_param), dims[1].dim_value) == (True, 5)
    done = cli("convert", source, "--shapes", "token_ids=2x6")
    assert (done.code, "dimension 1 of input 'token_ids' is 5 in this program, not 6" in done.err) == (2, True)


LAYER = ("--plugin", str(Path(__file__).with_name("gain.py")))


def test_an_operator_of_torch_library_becomes_a_layer(cli: Cli) -> None:
    words = (f"{NETS}:Gains", "--shapes", "x=Nx8", *LAYER)
    done = cli("optimize", *words, "--lower", "always", "-o", "placed.onnx", "--json")
    assert "graphopt_tests::gain is layer FusedTestGain" in report(done)["notes"]
    placed = [node for node in onnx.load("placed.onnx").graph.node if node.domain == "graphopt"]
    assert len(placed) == 2
    assert all(node.op_type.startswith("FusedTestGain") for node in placed)
    assert cli("optimize", *words, "--lower", "never", "-o", "plain.onnx").code == 0
    assert {node.domain for node in onnx.load("plain.onnx").graph.node} <= {"", "ai.onnx"}


def test_an_engine_of_a_network_with_a_layer(cli: Cli) -> None:
    done = cli("build", f"{NETS}:Gains", "--shapes", "x=4x8", *LAYER, "-o", "g.engine", "--json")
    assert done.code == 0, done.err
    noted = json.loads(Path("g.engine.json").read_text())
    assert noted["source"] == f"{NETS}:Gains"
    assert noted["made_by"]["imported"]["packages"]["torch"] == torch.__version__


ERRORS = {
    "Branch --shapes x=Nx3": (1, "torch_nets.py, line 131: if x.sum() > 0:", "torch.where or torch.cond"),
    "Unsupported --shapes x=Nx3": (1, "operator aten::special_i1 has no counterpart in ONNX, at ", "torch_op"),
    "Gains --shapes x=Nx8": (
        1,
        "operator graphopt_tests::gain has no counterpart",
        "torch_op = 'graphopt_tests::gain'",
    ),
    "FixedRows --shapes x=Nx3": (2, "the model itself does not run with these inputs", "2x3"),
    "resnet": (2, "input 'x' has no example and no shape", "--shapes x=1x3x224x224"),
    "resnet --shapes x=1x3x224": (2, "does not run with these inputs (x float32 1x3x224)", ""),
    "resnet --shapes y=1x3x224x224": (2, "the model has no input 'y'", "its inputs are: x"),
    "Recurrent --shapes token_ids=2x3,scale=2": (
        2,
        "does not run",
        "scale float32 2",
    ),
    "Recurrent --shapes token_ids=2x3 --import-option dtypes=token_ids=nope": (2, "no dtype 'nope'", ""),
    "broken --shapes x=1": (1, "it raised: RuntimeError: the weights are elsewhere", "line "),
    "number --shapes x=1": (1, "it returned int", "torch.nn.Module"),
    "absent --shapes x=1": (2, "has no 'absent'", ""),
    "resnet --shapes x=1x3x64x64 --import-option kwargs={1}": (2, "it is no JSON", ""),
    'resnet --shapes x=1x3x64x64 --import-option kwargs={"a":1}': (1, "unexpected keyword argument 'a'", "kwargs="),
    "resnet --shapes x=1x3x64x64 --import-option weights=absent.pth": (1, "weights=absent.pth: no such file", ""),
    "resnet --shapes x=1x3x64x64 --import-option weights=other.pth": (
        1,
        "weights are missing (conv1.weight",
        "of no use",
    ),
    "resnet --shapes x=1x3x64x64 --import-option exporter=magic": (2, "choose one of auto, dynamo, torchscript", ""),
    "resnet --shapes x=1x3x64x64 --import-option modules=absent": (1, "module absent cannot be imported", ""),
}


@pytest.mark.parametrize("words", ERRORS)
def test_what_cannot_be_taken_in_is_one_clear_error(cli: Cli, words: str, temporary: Path) -> None:
    torch.save({"a.weight": torch.zeros(1)}, "other.pth")
    name, *rest = words.split()
    done = cli("convert", f"{NETS}:{name}", *rest)
    code, says, hint = ERRORS[words]
    assert (done.code, says in done.err, hint in done.err) == (code, True, True), done.err
    assert not [name for name in files(temporary) if "graphopt" in name]
    assert files(Path()) == ["other.pth"]


def weights(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, path)


def pickled(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def legacy(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=False)


def truncated(path: Path) -> None:
    pickled(path)
    path.write_bytes(path.read_bytes()[:700])


def text(path: Path) -> None:
    path.write_text("no model\n")


@pytest.mark.parametrize(
    ("make", "says", "hint"),
    [
        (weights, "it holds weights (2 entries: fc.weight, fc.bias", "--import-option weights="),
        (pickled, "it is a pickled Python object (torch.nn.modules.linear.Linear)", "net.py:make"),
        (legacy, "it is a pickled Python object", "net.py:make"),
        (truncated, "or truncated", ""),
        (text, "it is no file of PyTorch's", ""),
    ],
)
def test_files_that_are_no_network(cli: Cli, make: Callable[[Path], None], says: str, hint: str) -> None:
    for name in ("m.pt", "m.pth", "m.pt2"):
        make(Path(name))
        done = cli("convert", name)
        assert (done.code, says in done.err, hint in done.err) == (1, True, True), done.err


def test_nothing_of_a_pickle_is_run(cli: Cli, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for name in ("m.pt", "m.pth", "m.pt2"):
        torch.save(Evil(), name)
        assert cli("inspect", name).code == 1
    assert not (tmp_path / "ran").exists()


def test_a_trace_that_is_true_for_its_example_only_must_be_asked_for(cli: Cli) -> None:
    words = (f"{NETS}:Branch", "--shapes", "x=Nx3", "--import-option", "exporter=torchscript")
    done = cli("convert", *words, "-o", "n.onnx", "--json")
    if done.code == 0:  # the second sample may lie on the other side of the branch
        assert any("true for the example inputs' values only" in note for note in report(done)["notes"])
    else:
        assert "does not compute what torch computes" in done.err
