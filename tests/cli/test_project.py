"""A project's file gives options; the command line overrides them; what is wrong in it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.cli import app, main
from graphopt.errors import UsageError
from graphopt.project import defaults, find

COMMANDS = __import__("typer").main.get_command(app).commands


def of(text: str, command: str = "build", *words: str, folder: Path = Path()) -> dict:
    path = folder / "graphopt.toml"
    path.write_text(text)
    plain = {name: one for name, one in COMMANDS.items() if not hasattr(one, "commands")}
    return defaults(path, plain, words)[command]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_of_every_command_and_of_one():
    text = "pipeline = 'careful'\nverify = 'each'\n[build]\noptimization-level = 4\nverify = 'none'\n"
    assert of(text) == {"pipeline": "careful", "verify": "none", "optimization_level": 4}
    assert of(text, "optimize") == {"pipeline": "careful", "verify": "each"}
    assert of(text, "inspect") == {}


def test_shapes_are_numbers_lists_or_bounds():
    text = "[shapes]\nx = '1x3'\ny = [2, 4]\nz = { min = [1], opt = 4, max = '8' }\n"
    found = of(text)
    assert found == {"shapes": ["x=1x3", "y=2x4", "z=4"], "min_shapes": ["z=1"], "max_shapes": ["z=8"]}
    assert of(text, "build", "--shapes=x=2x3") == {}


def test_profiles_pools_and_flags():
    text = """
    [build]
    profile = [{ x = { min = "1x3", opt = "4x3", max = "8x3" } }, "x=16x3"]
    mem-pool-size = { workspace = "4G" }
    sparsity = true
    builderOptimizationLevel = 2
    """
    assert of(text) == {
        "profile": ["x=1x3:4x3:8x3", "x=16x3"],
        "mem_pool_size": ["workspace:4G"],
        "sparsity": True,
        "optimization_level": 2,
    }


def test_a_profile_needs_not_all_three_bounds():
    for given, meant in (
        ('{ x = { min = "1x3", max = "8x3" } }', "x=1x3:8x3:8x3"),
        ('{ x = { opt = "4x3" } }', "x=4x3:4x3:4x3"),
        ("{ x = [2, 3], y = 5 }", "x=2x3,y=5"),
    ):
        assert of(f"[build]\nprofile = [{given}]\n")["profile"] == [meant]
    for wrong in ("5", "{ x = { typ = '1x3' } }", "{ x = {} }"):
        with pytest.raises(UsageError, match="profile"):
            of(f"[build]\nprofile = [{wrong}]\n")


def test_paths_are_meant_from_the_file(here):
    (here / "sub").mkdir()
    assert of("inputs = 'a.npz'\nplugin = ['p.py', 'a_module']\n", folder=Path("sub")) == {
        "inputs": "sub/a.npz",
        "plugin": ["sub/p.py", "a_module"],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pipelin = 'x'", "'pipelin' is no option"),
        ("[build]\nspeed = 1", "no option of graphopt build"),
        ("[build]\nsparsity = 'yes'", "true or false"),
        ("pipeline = ['a']", "one value"),
        ("[shapes]\nx = { typical = [1] }", "has no 'typical'"),
        ("x = = 1", "no TOML"),
        ("output = 'x.engine'", "'output' is no option"),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(UsageError, match=words) as found:
        of(text)
    assert "graphopt.toml" in found.value.where


def test_the_nearest_file_counts(here):
    deep = here / "a" / "b"
    deep.mkdir(parents=True)
    (here / "pyproject.toml").write_text("[tool.graphopt]\nverify = 'none'\n")
    (here / "a" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert find(deep) == here / "pyproject.toml"
    (here / "a" / "graphopt.toml").write_text("")
    assert find(deep) == here / "a" / "graphopt.toml"
    (deep / ".git").mkdir()
    assert find(deep) is None


def test_the_command_line_overrides(here, capsys):
    from graphopt.testing import model

    __import__("onnx").save(model("g (float[2] x) => (float[2] y) { y = Relu(x) }"), "m.onnx")

    def run(*words: str) -> str:
        with pytest.raises(SystemExit):
            main([*words])
        return capsys.readouterr().err

    Path("graphopt.toml").write_text("pipeline = 'absent'\n")
    words = ("optimize", "m.onnx", "-o", "o.onnx", "--verify", "none", "-q")
    assert "no pipeline is named 'absent'" in run(*words)
    assert run(*words, "--pipeline", "default") == ""
    assert run("--config", "none", *words) == ""
    Path("graphopt.toml").write_text("pipelines = 'absent'\n")
    assert "did you mean pipeline?" in run(*words)


def test_a_mistake_that_may_be_the_files_names_the_file(here, capsys):
    (here / "graphopt.toml").write_text("skip = 'no-such-pass'\n")
    with pytest.raises(SystemExit):
        main(["passes"])
    assert f"options were also taken from {here / 'graphopt.toml'}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--config", "none", "passes", "--skip", "no-such-pass"])
    assert "options were also taken" not in capsys.readouterr().err


def test_a_table_of_no_command_is_told_from_commands():
    with pytest.raises(UsageError, match="no command") as caught:
        of("[optimise]\nskip = 'x'\n")
    assert "optimize" in caught.value.hint
