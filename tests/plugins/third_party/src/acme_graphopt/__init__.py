"""A plugin as a third party ships it: one rule, one function pass, one pipeline."""

import graphopt


class DropDoubleNeg(graphopt.Rule):
    """Neg(Neg(x)) = x."""

    stage = "canonicalize"

    def pattern(self, op, x):
        return op.Neg(op.Neg(x))

    def rewrite(self, op, x):
        return x


@graphopt.pass_("simplify")
def drop_relu_of_abs(graph, target):
    """Relu(Abs(x)) = Abs(x)."""
    edit = graphopt.Editor(graph)
    found = [node for node in edit.nodes() if node.op == "Relu" and node.inputs[0].inputs]
    found = [node for node in found if node.inputs[0].inputs[0].op == "Abs" and not edit.is_result(node.outputs[0])]
    for node in found:
        edit.replace(node.outputs[0], node.inputs[0])
        edit.prune([node])
    edit.flush()
    return len(found)


@graphopt.hookimpl
def graphopt_passes():
    return [DropDoubleNeg(), drop_relu_of_abs]


@graphopt.hookimpl
def graphopt_pipelines():
    return {"acme": ["drop-double-neg"]}
