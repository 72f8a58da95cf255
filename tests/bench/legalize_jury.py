"""Judges models with the TensorRT-RTX of its own interpreter: a request a line on stdin, a verdict a line out.

Run by the interpreter of any environment that has tensorrt_rtx; imports nothing of graphopt. May die on any model.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


def main() -> None:
    import tensorrt_rtx as trt

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    back = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    back.write(json.dumps({"version": trt.__version__}) + "\n")
    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(text)

    logger = Logger()
    builder = trt.Builder(logger)
    for line in sys.stdin:
        request = json.loads(line)
        del messages[:]
        back.write(json.dumps(judge(trt, builder, logger, messages, request)) + "\n")


def judge(trt: Any, builder: Any, logger: Any, messages: list[str], request: dict[str, Any]) -> dict[str, Any]:
    """{'parse', 'build', 'op', 'node', 'reason', 'errors'}.

    request: 'model' (a path), 'profile'; 'parse_only'; 'level' of the builder's optimization, for builds in a hurry.
    """
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request["model"]):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        one = found[0] if found else None
        return {
            "parse": False,
            "build": False,
            "op": one.node_operator() if one else "",
            "node": one.node_name() if one else "",
            "reason": _line(one.desc() if one else (messages or ["?"])[0]),
            "errors": [[e.node_name(), e.node_operator(), _line(e.desc()), int(e.node())] for e in found],
        }
    verdict = {"parse": True, "build": False, "op": "", "node": "", "reason": ""}
    if request.get("parse_only"):
        return verdict
    seen = set()
    for index in range(network.num_inputs):  # as graphopt's own builds do: '?' and '-1' are no sizes that are equal
        tensor = network.get_input(index)
        for axis in range(len(tensor.shape)):
            name = tensor.get_dimension_name(axis)
            if name and not any(letter.isalpha() for letter in name):
                if name in seen:
                    tensor.set_dimension_name(axis, f"{tensor.name}.{axis}")
                seen.add(name)
    config = builder.create_builder_config()
    if "level" in request:
        config.builder_optimization_level = request["level"]
    profile = builder.create_optimization_profile()
    used = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        given = request["profile"].get(tensor.name)
        if given is None:
            continue
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, given["values"], given["values"], given["values"])
            used = True
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *given["shapes"])
            used = True
    if used:
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    verdict["build"] = engine is not None
    if engine is None:
        verdict["reason"] = _line(next((text for text in messages if "catchCuda" not in text), "?"))
    return verdict


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


if __name__ == "__main__":
    main()
