"""The engine cache: never a hit for another engine, never half an entry, one build for many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.backends.build_options import BuildOptions
from graphopt.config import Shapes, Target
from graphopt.engines.digest import file_digest
from graphopt.engines.key import engine_key
from graphopt.engines.request import NoKey
from graphopt.engines.store import Store, parse_bytes
from graphopt.errors import UsageError
from graphopt.registry import Registry
from graphopt.testing import model

SHAPES = Shapes(opt={"x": (1, 3, 8, 8)})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network() -> onnx.ModelProto:
    return model(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) y = Relu(c) }",
        weights={"w": np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3)},
    )


def save(proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    onnx.save(proto, name)
    return Path(name).resolve()


def key(
    path: Path, options: BuildOptions | None = None, shapes: Shapes = SHAPES, version: str = "1.6.1", **words
) -> str:
    target = words.pop("target", Target())
    return engine_key(path, shapes, options or BuildOptions(), target, version, words.pop("registry", Registry()))


def changed_weight(proto: onnx.ModelProto) -> None:
    [weight] = [one for one in proto.graph.initializer if one.name == "w"]
    raw = bytearray(numpy_helper.to_array(weight).tobytes())
    raw[77] ^= 1
    weight.CopyFrom(numpy_helper.from_array(np.frombuffer(raw, np.float32).reshape(4, 3, 3, 3), "w"))


def changed_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 1))


def changed_edge(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[0] = "x"


def changed_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = "first"


def changed_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = proto.graph.node[1].output[0] = "z"


def changed_dtype(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(
    "change", [changed_weight, changed_attribute, changed_edge, changed_name, changed_output, changed_dtype]
)
def test_a_changed_model_has_another_key(change) -> None:
    proto = network()
    before = key(save(proto))
    assert key(save(proto, "again.onnx")) == before
    change(proto)
    assert key(save(proto)) != before


def test_a_changed_bit_of_external_data_is_another_key() -> None:
    proto = network()
    path = Path("e.onnx").resolve()
    onnx.save(proto, path, save_as_external_data=True, location="e.data", size_threshold=0)
    before = key(path)
    data = bytearray(Path("e.data").read_bytes())
    data[5] ^= 1
    Path("e.data").write_bytes(data)
    assert key(path) != before


def test_every_option_is_part_of_the_key() -> None:
    path = save(network())
    several = [
        BuildOptions(), BuildOptions(optimization_level=1), BuildOptions(memory_pools={"workspace": 1 << 30}),
        BuildOptions(compute_capabilities=((8, 9),)), BuildOptions(tf32=False), BuildOptions(profiles=(SHAPES,)),
        BuildOptions(tiling="fast"), BuildOptions(aux_streams=1), BuildOptions(flags=("refit",)),
        BuildOptions(profiling_verbosity="none"), BuildOptions(preview_features=("+x",)),
        BuildOptions(l2_limit_bytes=1),
        BuildOptions(tactic_sources=("-x",)), BuildOptions(avg_timing=2), BuildOptions(max_tactics=2),
        BuildOptions(hardware_compatibility="ampere_plus"), BuildOptions(runtime_platform="windows_amd64"),
    ]  # fmt: skip
    keys = [key(path, one) for one in several]
    keys += [
        key(path, shapes=Shapes(opt={"x": (2, 3, 8, 8)})),
        key(path, version="1.7.1"),
        key(path, target=Target("tensorrt")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(path, BuildOptions(verbose=True)) == keys[0]
    assert key(path, BuildOptions(timing_cache="t")) == key(path, BuildOptions(timing_cache="u")) != keys[0]


def test_what_an_engine_is_for_is_part_of_the_key(monkeypatch) -> None:
    """A cache may be shared by machines of several kinds."""
    path, here = save(network()), os.uname()
    keys = [key(path)]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    keys.append(key(path))
    monkeypatch.setattr(os, "uname", lambda: type(here)((*here[:4], "another")))
    keys.append(key(path))
    assert len(set(keys)) == 3


LAYER = '''
import graphopt

class FusedTwice(graphopt.Layer):
    """y = x * 2."""
    def body(self, op, x): return op.like(op.float32(x) * 2.0, x)
    def infer(self, x): return x

@graphopt.hookimpl
def graphopt_layers(): return [FusedTwice]
'''


def test_a_changed_source_of_a_layer_is_another_key(folder) -> None:
    Path("twice.py").write_text(LAYER)
    proto = network()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "FusedTwice", "graphopt"
    path = save(proto)
    before = key(path, registry=Registry(["twice.py"]))
    plain = key(save(network(), "p.onnx"), registry=Registry(["twice.py"]))
    Path("twice.py").write_text(LAYER.replace("2.0", "3.0"))
    assert key(path, registry=Registry(["twice.py"])) != before
    assert key(Path("p.onnx"), registry=Registry(["twice.py"])) == plain  # which does not call it


def test_a_plugin_that_changes_builds_needs_a_key() -> None:
    hook = "import graphopt\n@graphopt.hookimpl\ndef graphopt_builder(network, config): pass\n"
    Path("b.py").write_text(hook)
    path = save(network())
    with pytest.raises(NoKey, match="plugin b may change the build and has no graphopt_cache_key"):
        key(path, registry=Registry(["b.py"]))
    keys = []
    for text in ("one", "two"):
        Path("b.py").write_text(hook + f"@graphopt.hookimpl\ndef graphopt_cache_key(): return {text!r}\n")
        keys.append(key(path, registry=Registry(["b.py"])))
    assert keys[0] != keys[1]


def test_what_was_put_comes_back_and_damage_is_no_hit(folder) -> None:
    store = Store()
    Path("e").write_bytes(b"engine" * 1000)
    store.put("ab12", Path("e"), {"seconds": 2.0})
    assert store.get("ab12", Path("out"))["seconds"] == 2.0
    assert Path("out").read_bytes() == Path("e").read_bytes()
    assert store.get("ab13", Path("other")) is None
    held = store.root / "entries" / "ab12" / "engine"
    data = bytearray(held.read_bytes())
    data[99] ^= 4
    held.write_bytes(data)
    assert [why for _, why in store.verify()] == ["its bytes are not those that were stored"]
    assert store.get("ab12", Path("broken")) is None
    assert not Path("broken").exists()
    assert store.entries() == []


def test_a_full_disk_does_not_cost_the_engine_that_is_kept(folder) -> None:
    store = Store()
    Path("e").write_bytes(b"engine" * 1000)
    store.put("ab12", Path("e"), {"seconds": 2.0})
    with pytest.raises(OSError, match="No space left"):
        store.get("ab12", Path("/dev/full"))
    assert store.get("ab12", Path("out"))["seconds"] == 2.0


def test_a_cache_that_can_only_be_read_is_read(folder) -> None:
    """Of another user, or in an image: its engines are taken, and what is not there is built and not kept."""
    pytest.importorskip("tensorrt_rtx")
    lost = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if lost and subprocess.run([*lost, "true"], capture_output=True).returncode:
        pytest.skip("root cannot give up its rights here")
    save(network())
    built(graphopt("build", "m.onnx", "-o", "a.engine", *WORDS))

    def reader(*words: str) -> subprocess.CompletedProcess[str]:
        words = (*lost, sys.executable, "-m", "graphopt", *words)
        return subprocess.run(words, capture_output=True, text=True, timeout=120)

    subprocess.run(["chmod", "-R", "a-w", "cache"], check=True)
    try:
        done = reader("build", "m.onnx", "-o", "b.engine", *WORDS)
        assert json.loads(done.stdout)["build"]["cache"]["hit"], done.stderr
        changed = network()
        changed_weight(changed)
        save(changed)
        done = reader("build", "m.onnx", "-o", "c.engine", *WORDS)
        assert done.returncode == 0, done.stderr
        assert "warning: the engine is not kept in the cache: Permission denied" in done.stderr
        assert not json.loads(done.stdout)["build"]["cache"]["hit"]
        assert reader("cache", "prune", "--size", "0").stdout == "0 engines dropped, 0 bytes freed\n"
    finally:
        subprocess.run(["chmod", "-R", "u+w", "cache"], check=True)
    assert len(Store().entries()) == 1


def test_a_damaged_entry_is_no_hit(folder) -> None:
    store = Store()
    Path("e").write_bytes(b"engine")
    store.put("ab12", Path("e"), {"seconds": 2.0})
    entry = store.root / "entries" / "ab12" / "entry.json"
    entry.write_text(entry.read_text().replace("2.0", "3.0"))
    assert store.get("ab12", Path("out")) is None


def test_what_was_not_asked_for_longest_goes_first(folder) -> None:
    store = Store(limit_bytes=3600)
    Path("e").write_bytes(bytes(1000))
    for name in ("aa", "bb", "cc"):
        store.put(name, Path("e"), {})
        os.utime(store.root / "entries" / name / "entry.json", (ord(name[0]),) * 2)
    store.get("aa", Path("out"))
    store.put("dd", Path("e"), {})
    assert {one.key for one in store.entries()} == {"aa", "cc", "dd"}
    assert len(store.prune(0)) == 3
    assert store.entries() == []


@pytest.mark.parametrize(("text", "size"), [("4G", 4 << 30), ("512", 512 << 20), ("64K", 65536), ("7B", 7)])
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size
    with pytest.raises(UsageError):
        parse_bytes(f"{text}?")


def graphopt(*words: str, wait: bool = True) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", "graphopt", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if wait:
        child.wait(120)
    return child


def built(child: subprocess.Popen[str]) -> dict:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return json.loads(out)["build"]


WORDS = ("--shapes", "x=1x3x8x8", "--verify", "none", "--json")


def test_the_second_build_is_a_hit_and_the_engine_the_same(folder) -> None:
    pytest.importorskip("tensorrt_rtx")
    save(network())
    first = built(graphopt("build", "m.onnx", "-o", "a.engine", *WORDS))
    second = built(graphopt("build", "m.onnx", "-o", "b.engine", *WORDS))
    assert (first["cache"]["hit"], second["cache"]["hit"]) == (False, True)
    assert Path("a.engine").read_bytes() == Path("b.engine").read_bytes()
    one, two = (json.loads(Path(f"{name}.engine.json").read_text()) for name in "ab")
    assert one["nodes"] == two["nodes"]
    assert one["made_by"]["key"] == two["made_by"]["key"] == first["cache"]["key"]
    proto = network()
    changed_weight(proto)
    save(proto)
    assert not built(graphopt("build", "m.onnx", "-o", "c.engine", *WORDS))["cache"]["hit"]
    assert not built(graphopt("build", "m.onnx", "-o", "d.engine", "--no-cache", *WORDS))["cache"]["hit"]


def test_optimize_and_build_share_engines(folder) -> None:
    pytest.importorskip("tensorrt_rtx")
    save(network())
    first = built(graphopt("optimize", "m.onnx", "--engine", "a.engine", *WORDS))
    second = built(graphopt("build", "m.onnx", "-o", "b.engine", *WORDS))
    third = built(graphopt("optimize", "m.onnx", "--build", *WORDS))
    last = built(graphopt("optimize", "m.onnx", "--engine", "c.engine", "--no-cache", *WORDS))
    assert [one["cache"]["hit"] for one in (first, second, third, last)] == [False, True, True, False]


def test_an_engine_that_is_there_already_is_left_and_a_damaged_one_replaced(folder) -> None:
    pytest.importorskip("tensorrt_rtx")
    save(network())
    built(graphopt("build", "m.onnx", "-o", "a.engine", *WORDS))
    good, made = Path("a.engine").read_bytes(), Path("a.engine").stat().st_ino
    assert built(graphopt("build", "m.onnx", "-o", "a.engine", *WORDS))["cache"]["hit"]
    assert Path("a.engine").stat().st_ino == made
    Path("a.engine").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert built(graphopt("build", "m.onnx", "-o", "a.engine", *WORDS))["cache"]["hit"]
    assert Path("a.engine").read_bytes() == good


def test_the_manifest_tells_how_to_build_it_again(folder) -> None:
    pytest.importorskip("tensorrt_rtx")
    save(network())
    built(graphopt("build", "m.onnx", "-o", "a.engine", "--builderOptimizationLevel", "1", *WORDS))
    made_by = json.loads(Path("a.engine.json").read_text())["made_by"]
    assert list(made_by["files"]) == ["m.onnx"]
    words = [*made_by["command"][1:], "--no-cache", "--json"]
    assert words[words.index("--optimization-level") + 1] == "1"
    first = Path("a.engine").read_bytes()
    built(graphopt(*words))
    assert json.loads(Path("a.engine.json").read_text())["made_by"]["command"] == made_by["command"]
    assert len(Path("a.engine").read_bytes()) == len(first)


def test_many_processes_build_once(folder) -> None:
    pytest.importorskip("tensorrt_rtx")
    save(network())
    children = [graphopt("build", "m.onnx", "-o", f"{n}.engine", *WORDS, wait=False) for n in range(8)]
    found = [built(child) for child in children]
    assert sorted(one["cache"]["hit"] for one in found) == [False] + [True] * 7
    assert len({Path(f"{n}.engine").read_bytes() for n in range(8)}) == 1


def test_a_killed_build_leaves_no_entry(folder) -> None:
    pytest.importorskip("tensorrt_rtx")
    slow = "import time, graphopt\n@graphopt.hookimpl\ndef graphopt_builder(network, config):\n"
    slow += "    open('started', 'w').close()\n    time.sleep(60)\n"
    slow += "@graphopt.hookimpl\ndef graphopt_cache_key(): return ''\n"
    Path("slow.py").write_text(slow)
    save(network())
    child = graphopt("build", "m.onnx", "--plugin", "slow.py", *WORDS, wait=False)
    limit = time.monotonic() + 60
    while not Path("started").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert Path("started").exists()
    assert Store().entries() == []
    assert not Path("m.engine").exists()
    Path("slow.py").write_text(slow.replace("60)", "0)"))
    assert not built(graphopt("build", "m.onnx", "--plugin", "slow.py", *WORDS))["cache"]["hit"]
    assert len(Store().entries()) == 1


def test_the_commands(folder, capsys) -> None:
    from graphopt.cli import main

    def call(*words: str) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as left:
            main(["cache", *words, "--json"])
        return int(left.value.code or 0), json.loads(capsys.readouterr().out)

    Path("e").write_bytes(bytes(1000))
    Store().put("aa", Path("e"), {"seconds": 1.0, "manifest": {"source": "m.onnx"}})
    assert call("list")[1]["engines"][0]["source"] == "m.onnx"
    assert call("verify") == (0, {"schema_version": 1, "checked": 1, "damaged": []})
    (Store().root / "entries" / "aa" / "engine").write_bytes(bytes(999))
    assert call("verify")[0] == 1
    assert call("prune", "--size", "0")[1]["dropped"] == []


def test_a_changed_bit_of_external_data_is_no_hit(folder) -> None:
    """The answer to the whole command is looked up by the model file alone: its data files are looked at then."""
    pytest.importorskip("tensorrt_rtx")
    onnx.save(network(), "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert not built(graphopt("build", "m.onnx", "-o", "a.engine", *WORDS))["cache"]["hit"]
    assert built(graphopt("build", "m.onnx", "-o", "b.engine", *WORDS))["cache"]["hit"]
    raw = bytearray(Path("m.data").read_bytes())
    raw[77] ^= 1
    Path("m.data").write_bytes(raw)
    assert not built(graphopt("build", "m.onnx", "-o", "c.engine", *WORDS))["cache"]["hit"]


@pytest.mark.parametrize("size", [0, 1, 5 << 20, 16 << 20, (16 << 20) + 1, 40 << 20])
def test_a_digest_knows_every_bit_and_the_length(folder, size) -> None:
    path = folder / "f"
    raw = bytearray(np.random.default_rng(size).bytes(size))
    path.write_bytes(raw)
    digest = file_digest(path)
    path.write_bytes(raw + b"\0")
    assert file_digest(path) != digest
    for place in {0, size // 2, size - 1} if size else ():
        raw[place] ^= 1
        path.write_bytes(raw)
        assert file_digest(path) != digest
        raw[place] ^= 1
    path.write_bytes(raw)
    assert file_digest(path) == digest
