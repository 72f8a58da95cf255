"""A plugin whose layer stands for an operator of torch.library."""

import graphopt


class FusedTestGain(graphopt.Layer):
    """y = x * weight * scale + bias."""

    torch_op = "graphopt_tests::gain"
    scale: float = 1.0
    shapes = {"x": "... n", "weight": "n", "bias": "n"}

    def body(self, op, x, weight, bias=None):
        found = x * weight * self.scale
        return found if bias is None else found + bias

    def infer(self, x, weight, bias=None):
        return x

    def enqueue(self, x, weight, bias, y):
        raise NotImplementedError


@graphopt.hookimpl
def graphopt_layers():
    return [FusedTestGain]
