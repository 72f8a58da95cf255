from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from graphopt.numerics.exchange import read_values, write_values


def test_every_kind_of_value_survives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    floats = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4]
    values = {str(np.dtype(t)): rng.standard_normal((2, 3)).astype(t) for t in floats}
    values |= {
        "scalar": np.array(3, np.int64),
        "bf16 scalar": np.array(1.5, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4), bool),
        "text": np.array([["ü", "a\0b"], ["", "c\n"]], object),
        "no text": np.empty((0,), object),
        "list": [np.arange(3), [], None],
        "map": {1: np.array([2.0])},
        "absent": None,
        "fortran": np.asfortranarray(rng.standard_normal((3, 4))),
        "complex": np.array([1 + 2j], np.complex64),
    }
    write_values(tmp_path / "v", values)
    found = read_values(tmp_path / "v")
    assert list(found) == list(values)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
            assert found[name].shape == value.shape, name
            assert (found[name] == value).all(), name
    assert found["absent"] is None
    assert found["list"][1:] == [[], None]
    assert found["map"][1][0] == 2.0
