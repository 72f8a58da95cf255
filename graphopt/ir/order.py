"""Order of nodes inside one scope, captures of control-flow bodies included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from graphopt.errors import ModelError

from .graph import subgraphs


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """Every tensor a node depends on: its inputs, and what its bodies read or return from anywhere."""
    yield from node.inputs
    if not node.attrs:
        return
    pending = list(subgraphs(node))
    while pending:
        body = pending.pop()
        yield from body.outputs
        for inner in body.nodes:
            yield from inner.inputs
            if inner.attrs:
                pending.extend(subgraphs(inner))


def is_sorted(nodes: list[gs.Node]) -> bool:
    """Whether each node comes after the producers, among `nodes`, of what it reads."""
    later = {id(node) for node in nodes}
    for node in nodes:
        plain = not node.attrs or not subgraphs(node)
        for tensor in node.inputs if plain else reads(node):
            producers = tensor.inputs
            if producers and id(producers[0]) in later:
                return False
        later.discard(id(node))
    return True


def toposort(nodes: list[gs.Node], where: str = "") -> list[gs.Node]:
    """The nodes with every producer before its readers, otherwise in the given order.

    Raises:
        ModelError: naming the nodes of a cycle.
    """
    here = {id(node) for node in nodes}
    done: set[int] = set()
    result: list[gs.Node] = []
    for start in nodes:
        if id(start) in done:
            continue
        path: list[tuple[gs.Node, Iterator[gs.Tensor]]] = [(start, reads(start))]
        open_ids = {id(start)}
        while path:
            node, pending = path[-1]
            for tensor in pending:
                producer = tensor.inputs[0] if tensor.inputs else None
                if producer is None or id(producer) not in here or id(producer) in done:
                    continue
                if id(producer) in open_ids:
                    names = [n.name for n, _ in path]
                    cycle = names[names.index(producer.name) :] if producer.name in names else names
                    raise ModelError(f"the graph has a cycle: {' -> '.join([*cycle[:8], cycle[0]])}", where=where)
                path.append((producer, reads(producer)))
                open_ids.add(id(producer))
                break
            else:
                path.pop()
                open_ids.discard(id(node))
                done.add(id(node))
                result.append(node)
    return result
