"""The child's half of a native run: `python -m graphopt.backends.worker` with a request on stdin."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any

from graphopt.config import Shapes
from graphopt.errors import BackendError, GraphoptError

from .child import Pipe, end_with
from .native import Native, load
from .protocol import BuildOptions, ParseError
from .tensorrt import FLAVORS, Flavor


def answer(request: dict[str, Any], pipe: Pipe) -> dict[str, Any]:
    """What the parent asked for. Raises GraphoptError."""
    flavor = FLAVORS[request["backend"]]
    module = load(flavor)
    version = str(module.__version__)
    if request["action"] == "probe":
        return {"version": version}
    options = BuildOptions.from_json(request.get("options") or dataclasses.asdict(BuildOptions()))
    if request["action"] == "check":
        Native(module, flavor, options, pipe).check()
        return {"version": version}
    creators = _creators(module, flavor, request["model"], options)  # they live as long as this process
    native = Native(module, flavor, options, pipe)
    network = dataclasses.asdict(native.parse(request["model"]))
    if request["action"] == "parse":
        return {"version": version, "network": network}
    shapes = {bound: {name: tuple(dims) for name, dims in found.items()} for bound, found in request["shapes"].items()}
    try:
        seconds = native.build(Shapes(**shapes), request["engine"], _before(options))
    except BackendError as error:
        from graphopt.layers.plugin import FAILURES

        if creators and FAILURES:
            raise BackendError(error.what, where=error.where, hint="\n  ".join(FAILURES[-3:])) from error
        raise
    return {"version": version, "network": network, "seconds": seconds}


def _creators(trt: Any, flavor: Flavor, model: str, options: BuildOptions) -> list[Any]:
    """Creators for the custom layers in a model, registered; none where the backend has no plugins.

    Raises BackendError where TensorRT refuses one.
    """
    if not flavor.has_plugins:
        return []
    import onnx

    from graphopt.layers.layer import DOMAIN
    from graphopt.layers.plugin import register
    from graphopt.registry import Registry

    nodes = onnx.load(model, load_external_data=False).graph.node
    called = {node.op_type for node in nodes if node.domain == DOMAIN}
    if not called:
        return []
    layers = {layer.__name__: layer for _, layer in Registry(options.plugins, options.no_plugins).layers()}
    return register(trt, trt.get_plugin_registry(), layers, called)


def _before(options: BuildOptions) -> Callable[[Any, Any], None] | None:
    if not options.hooks:
        return None
    from graphopt.registry import Registry

    return Registry(options.plugins, options.no_plugins).before_build


def main() -> None:
    """Answer one request and end at once: native destructors that run at exit can crash, too."""
    messages, trace, parent = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with(parent)
    pipe = Pipe(messages, trace)
    try:
        pipe.send(type="result", value=answer(json.load(sys.stdin), pipe))
    except GraphoptError as error:
        found = [dataclasses.asdict(one) for one in error.errors] if isinstance(error, ParseError) else []
        kind = type(error).__name__
        pipe.send(type="error", kind=kind, what=error.what, where=error.where, hint=error.hint, errors=found)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
