from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from graphopt.errors import UsageError
from graphopt.numerics import Port, check_feeds, load_npz

X, W = Port("x", TensorProto.FLOAT, ("n", 3)), Port("w", TensorProto.FLOAT, (1,), required=False)


def test_what_fits_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.full((2, 3), np.nan, np.dtype(">f4")))
    found = load_npz(path, [X, W])
    assert list(found) == ["x"]
    assert found["x"].dtype == np.dtype("float32")
    assert found["x"].dtype.isnative
    assert np.isnan(found["x"]).all()


def test_bits_of_narrow_floats_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    value = np.array([1.5, -2], ml_dtypes.bfloat16)
    np.savez(path, x=value.view(np.uint16))
    assert (load_npz(path, [Port("x", TensorProto.BFLOAT16, (2,))])["x"] == value).all()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((2, 3), np.float32), "zz": np.zeros(1)}, "no input 'zz'"),
        ({"x": np.zeros((2, 3))}, "float32, not float64"),
        ({"x": np.zeros((3,), np.float32)}, "rank is 2, not 1"),
        ({"x": np.zeros((2, 4), np.float32)}, "dimension 1 is 3, not 4"),
        ({"x": np.zeros((2, 3), np.float32), "w": np.zeros(2, np.float32)}, "dimension 0 is 1, not 2"),
    ],
)
def test_what_does_not_fit_is_named(arrays: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_feeds(arrays, [X, W])


def test_one_symbol_cannot_have_two_sizes() -> None:
    two = [X, Port("y", TensorProto.FLOAT, ("n",))]
    with pytest.raises(UsageError, match="'n' is 2 in 'x' and 5 in 'y'"):
        check_feeds({"x": np.zeros((2, 3), np.float32), "y": np.zeros(5, np.float32)}, two)


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, x=np.zeros((200, 3), np.float32))
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[300] ^= 0xFF
    for damaged in (content[:100], content[: len(content) // 2], b"", b"not an archive", bytes(flipped)):
        bad.write_bytes(damaged)
        with pytest.raises(UsageError):
            load_npz(bad, [X])
    np.savez(bad, x=np.array([object()], dtype=object))
    with pytest.raises(UsageError, match="Python objects"):
        load_npz(bad, [X])
    single = tmp_path / "one.npy"
    np.save(single, np.zeros((2, 3), np.float32))
    with pytest.raises(UsageError, match="single array"):
        load_npz(single, [X])
    with pytest.raises(UsageError, match="cannot be read"):
        load_npz(tmp_path / "none.npz", [X])
