"""Pools, resizes and reductions of single elements."""

from __future__ import annotations

import pytest
from graphopt_passes import noop_windows as rules

from graphopt.testing import assert_unchanged, check_rule, model

RELU = "g (float[N,3,4,5] x) => (float[N,3,4,5] y) { y = Relu(x) }"


def before(body: str, constants: str = "", opset: int = 17) -> object:
    initial = f"<{constants}>" if constants else ""
    return model(f"g (float[N,3,4,5] x) => (float[N,3,4,5] y) {initial} {{ {body} y = Relu(t) }}", opset=opset)


def sized(body: str, constants: str = "") -> object:
    initial = f"<{constants}>" if constants else ""
    return model(f"g (float[N,3,4,5] x) => (int64 y) {initial} {{ {body} y = Size(t) }}")


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_a_pool_of_one_element_goes(kind, opset):
    body = f"t = {kind}<kernel_shape=[1,1], strides=[1,1], pads=[0,0,0,0]>(x)"
    check_rule(rules.RemovePoolOfOne(), before(body, opset=opset), model(RELU, opset=opset))


@pytest.mark.parametrize(
    "body",
    [
        "t = MaxPool<kernel_shape=[1,1], strides=[2,1]>(x)",
        "t = AveragePool<kernel_shape=[1,1], pads=[0,0,0,1]>(x)",
        "t = MaxPool<kernel_shape=[2,1]>(x)",
    ],
)
def test_a_pool_that_strides_pads_or_is_wider_stays(body):
    assert_unchanged(rules.RemovePoolOfOne(), sized(body))


def test_a_pool_whose_indices_are_read_stays():
    assert_unchanged(rules.RemovePoolOfOne(), sized("u, t = MaxPool<kernel_shape=[1,1]>(x)"))


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool"])
def test_a_global_pool_of_one_element_goes(kind):
    check_rule(
        rules.RemoveGlobalPoolOfOne(),
        f"g (float[N,C,1,1] x) => (float[N,C,1,1] y) {{ t = {kind}(x) y = Relu(t) }}",
        "g (float[N,C,1,1] x) => (float[N,C,1,1] y) { y = Relu(x) }",
    )


@pytest.mark.parametrize("spatial", ["1,H", "H,W", "1,2"])
def test_a_global_pool_of_what_may_be_more_stays(spatial):
    assert_unchanged(
        rules.RemoveGlobalPoolOfOne(),
        f"g (float[N,C,{spatial}] x) => (float[N,C,1,1] y) {{ t = GlobalAveragePool(x) y = Relu(t) }}",
    )


class TestReduce:
    @pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
    def test_over_dimensions_of_1_goes(self, kind):
        text = "g (float[N,1,4,1] x) => (float[N,1,4,1] y) <int64[2] a = {{1, -1}}> {{ t = {0}(x, a) y = Relu(t) }}"
        after = model("g (float[N,1,4,1] x) => (float[N,1,4,1] y) { y = Relu(x) }", opset=18)
        check_rule(rules.RemoveReduceOfOne(), model(text.format(kind), opset=18), after)

    @pytest.mark.parametrize("opset", [9, 11, 13, 17])
    def test_with_axes_as_an_attribute_goes(self, opset):
        text = "g (float[N,1] x) => (float[N,1] y) { t = ReduceMean<axes=[1]>(x) y = Relu(t) }"
        check_rule(rules.RemoveReduceOfOne(), model(text, opset=opset))

    def test_over_no_axes_goes_where_that_means_none(self):
        text = "g (float[N,2] x) => (float[N,2] y) { t = ReduceSum<noop_with_empty_axes=1>(x) y = Relu(t) }"
        check_rule(rules.RemoveReduceOfOne(), model(text, opset=18))

    @pytest.mark.parametrize(
        "body",
        [
            "t = ReduceMean<axes=[0]>(x)",
            "t = ReduceMean(x)",
            "t = ReduceMean<axes=[1], keepdims=0>(x)",
            "t = ReduceL2<axes=[1]>(x)",
            "t = ReduceSumSquare<axes=[1]>(x)",
            "t = ReduceLogSumExp<axes=[1]>(x)",
        ],
    )
    def test_of_more_or_with_another_meaning_stays(self, body):
        text = f"g (float[N,1] x) => (int64 y) {{ {body} y = Size(t) }}"
        assert_unchanged(rules.RemoveReduceOfOne(), model(text, opset=17))


class TestResize:
    ONES = "float[4] k = {1, 1, 1, 1}"

    @pytest.mark.parametrize(
        "mode", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
    )
    @pytest.mark.parametrize("kind", ["nearest", "linear", "cubic"])
    def test_by_1_goes(self, mode, kind):
        body = f't = Resize<mode="{kind}", coordinate_transformation_mode="{mode}">(x, , k)'
        check_rule(rules.RemoveResizeToSame(), before(body, self.ONES, opset=19), model(RELU, opset=19), seeds=1)

    def test_by_1_at_opset_10_goes(self):
        check_rule(rules.RemoveResizeToSame(), before("t = Resize(x, k)", self.ONES, 10), model(RELU, opset=10))

    def test_upsample_by_1_goes(self):
        check_rule(rules.RemoveUpsampleToSame(), before("t = Upsample(x, k)", self.ONES, 9), model(RELU, opset=9))

    def test_to_the_same_sizes_goes(self):
        text = """g (float[2,3,4,5] x) => (float[2,3,4,5] y) <int64[4] s = {2, 3, 4, 5}> {
            t = Resize<mode="linear">(x, , , s) y = Relu(t) }"""
        check_rule(rules.RemoveResizeToSame(), text, "g (float[2,3,4,5] x) => (float[2,3,4,5] y) { y = Relu(x) }")

    def test_to_the_same_sizes_of_some_axes_goes(self):
        body = 't = Resize<mode="linear", axes=[3,2]>(x, , , s)'
        check_rule(rules.RemoveResizeToSame(), before(body, "int64[2] s = {5, 4}", opset=19), model(RELU, opset=19))

    @pytest.mark.parametrize(
        ("body", "constants"),
        [
            ("t = Resize(x, , k)", "float[4] k = {1, 1, 2, 1}"),
            ("t = Resize(x, , , s)", "int64[4] s = {1, 3, 4, 5}"),
            ('t = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">(x, , k)', ONES),
            ('t = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, k)',
             ONES + ", float[8] r = {0,0,0,0,1,1,1,1}"),
        ],
        ids=["scales", "an unknown size", "half a pixel off", "crops"],
    )  # fmt: skip
    def test_that_scales_shifts_or_crops_stays(self, body, constants):
        assert_unchanged(rules.RemoveResizeToSame(), sized(body, constants))
