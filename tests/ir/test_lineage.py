"""Lineage in the file: at each node, or in one table where it would outweigh what it is about."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.ir import lineage
from graphopt.ir.graph import extras, scopes
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.testing import model


def chain(length, side=2):
    """Squares that are fused with what follows, so that each has an origin and a rule."""
    nodes = " ".join(f"a{i} = Neg(x{i}) x{i + 1} = Abs(a{i})" for i in range(length))
    text = f"g (float[N,{side}] x0) => (float[N,{side}] y) {{ {nodes} z = MatMul(x{length}, w) y = Relu(z) }}"
    return load(model(text, weights={"w": np.ones((side, side), np.float32)}))


def told(graph):
    return {node.name: (extras(node).origin, extras(node).rules) for scope in scopes(graph) for node in scope.nodes}


def traced(graph):
    for node in graph.nodes:
        extras(node).origin, extras(node).rules = (f"{node.name}_of_the_source", "another"), ("some-rule",)
    return graph


def props(holder):
    return {prop.key: prop.value for prop in holder.metadata_props}


class TestTable:
    def test_of_many_nodes_with_small_weights_there_is_one_table(self):
        graph = traced(chain(20))
        proto = to_proto(graph)
        assert list(props(proto)) == [lineage.TABLE]
        assert not any(node.metadata_props for node in proto.graph.node)
        inline = sum(len(json.dumps(line)) for line in told(graph).values())
        assert proto.metadata_props[0].ByteSize() < inline / 4
        onnx.checker.check_model(proto)

    def test_it_is_read_again_and_leaves_no_trace(self):
        graph = traced(chain(20))
        again = load(to_proto(graph))
        assert told(again) == told(graph)
        for node in again.nodes:
            extras(node).origin = extras(node).rules = ()
        assert not props(to_proto(again))

    def test_beside_larger_weights_each_node_has_its_own(self):
        proto = to_proto(traced(chain(20, side=300)))
        assert not props(proto)
        assert all(set(props(node)) == {"graphopt.origin", "graphopt.rule"} for node in proto.graph.node)
        assert proto.ir_version >= 10

    def test_a_few_nodes_have_their_own(self):
        assert not props(to_proto(traced(chain(1))))

    def test_nodes_of_bodies_are_in_it(self):
        text = """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] u) { %s u = Identity(b19) },
                       else_branch = e () => (float[2] v) { v = Neg(x) }> }"""
        body = "b0 = Neg(x) " + " ".join(f"b{i + 1} = Neg(b{i})" for i in range(19))
        graph = load(model(text % body))
        for scope in scopes(graph):
            traced(scope)
        again = load(to_proto(graph))
        assert props(to_proto(graph))
        assert told(again) == told(graph)

    def test_names_that_stand_twice_go_to_the_nodes(self):
        graph = traced(chain(20))
        for node in graph.nodes:
            node.name = "same"
        proto = to_proto(graph)
        assert not props(proto)
        assert all(node.metadata_props for node in proto.graph.node)

    def test_nor_does_a_name_go_into_it_that_a_node_without_lineage_has(self):
        graph = traced(chain(20))
        last = graph.nodes[-1]
        last.name, extras(last).origin, extras(last).rules = graph.nodes[0].name, (), ()
        proto = to_proto(graph)
        assert not props(proto)
        assert not proto.graph.node[-1].metadata_props

    @pytest.mark.parametrize("damage", ["?", "", "Wb", "not base85 \u00e9"])
    def test_a_damaged_table_is_kept_and_says_nothing(self, damage):
        proto = to_proto(traced(chain(20)))
        proto.metadata_props[0].value = damage
        graph = load(proto)
        assert not any(extras(node).rules for node in graph.nodes)
        assert props(to_proto(graph))[lineage.TABLE] == damage

    def test_a_second_run_tells_of_the_first_source(self):
        first = graphopt.optimize(to_proto(traced(chain(20))), verify="none").graph
        second = graphopt.optimize(to_proto(first), verify="none").graph
        origins = {name for origin, _ in told(second).values() for name in lineage.flatten(origin)}
        assert any(name.endswith("_of_the_source") for name in origins)
