"""What the GPU bench of legal models chooses, keeps, and calls right."""

import numpy as np
import pytest

from tests.bench.legalize_gpu import _spread, _stored, stratified, verdict

ABOUT = {"rtol": 1e-3, "atol": 1e-7, "products": False}


@pytest.mark.parametrize(
    ("products", "error", "status"),
    [(False, 1e-4, "right"), (False, 1.5e-3, "wrong"), (True, 1.5e-3, "right_tf32"), (True, 1e-2, "wrong")],
)
def test_only_sums_of_products_get_the_tolerance_of_tf32(products, error, status):
    want = np.array([1, 0.01, 0], np.float32)
    got = want + np.float32(error) * np.array([0, 1, 1], np.float32)
    if status == "right":
        got = want * np.float32(1 + error)
    assert verdict({**ABOUT, "products": products}, {"y": want}, {"y": got})["status"] == status


def test_promoted_dtypes_are_compared_by_value_and_shapes_exactly():
    want = np.array([3, 65535], np.uint16)
    assert verdict(ABOUT, {"y": want}, {"y": want.astype(np.int32)})["status"] == "right"
    assert verdict(ABOUT, {"y": want}, {"y": want.astype(np.int16)})["status"] == "wrong"
    assert verdict(ABOUT, {"y": want}, {"y": want[None]})["status"] == "wrong"


def test_nan_and_infinity_are_equal_to_themselves_only():
    want = np.array([np.nan, np.inf, 1], np.float32)
    assert verdict(ABOUT, {"y": want}, {"y": want})["status"] == "right"
    assert verdict(ABOUT, {"y": want}, {"y": np.array([np.nan, 1, 1], np.float32)})["status"] == "wrong"
    assert verdict(ABOUT, {"y": want}, {"y": np.array([0, np.inf, 1], np.float32)})["status"] == "wrong"


def test_each_class_has_its_turn_and_the_choice_is_repeatable():
    classes = {f"many{i:02}": ["a"] for i in range(50)} | {f"few{i}": ["a", "b"] for i in range(3)}
    picked = stratified(classes, 8)
    assert sorted(picked.values()) == ["a"] * 5 + ["b"] * 3
    assert picked == stratified(dict(reversed(classes.items())), 8)
    assert sorted(_spread(11)) == list(range(11))


def test_small_floats_are_kept_by_value(tmp_path):
    import ml_dtypes

    array = np.array([0.5, -2], ml_dtypes.float8_e5m2)
    np.savez(tmp_path / "a.npz", x=_stored(array))
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0.5, -2]
