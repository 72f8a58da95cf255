"""Every name that the build options use, held against TensorRT's real bindings.

Run as a script: `python option_names.py FOLDER MAJOR` looks into the bindings installed in FOLDER and prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

METHODS = {
    "IBuilderConfig": (
        "set_flag get_flag clear_flag set_memory_pool_limit get_memory_pool_limit get_tactic_sources "
        "set_tactic_sources set_preview_feature get_preview_feature create_timing_cache get_timing_cache "
        "set_timing_cache add_optimization_profile"
    ),
    "ITimingCache": "combine serialize",
    "Builder": "create_builder_config create_network create_optimization_profile build_serialized_network",
    "IOptimizationProfile": "set_shape set_shape_input",
}
ARGUMENTS = {"set_timing_cache": 2, "set_memory_pool_limit": 2, "set_preview_feature": 2, "create_timing_cache": 1,
             "combine": 2, "set_flag": 1, "set_tactic_sources": 1, "serialize": 0}  # fmt: skip


def missing(trt: Any) -> list[str]:
    """Names of ours that the bindings do not have, or that cannot be set, or take other arguments."""
    import re

    from graphopt.backends.build_options import _CHOICES, FLAGS, POOLS, SETTINGS

    told = []
    for name, (attribute, enumeration) in SETTINGS.items():
        found = getattr(trt.IBuilderConfig, attribute, None)
        if not isinstance(found, property) or found.fset is None:
            told.append(f"IBuilderConfig.{attribute}")
        if enumeration:
            told += _members(trt, enumeration, _CHOICES[name])
    told += _members(trt, "BuilderFlag", ["TF32", *(flag for flag, _ in FLAGS.values())])
    told += _members(trt, "MemoryPoolType", POOLS)
    told += [name for name in ("PreviewFeature", "TacticSource") if not getattr(trt, name).__members__]
    for owner, methods in METHODS.items():
        for name in methods.split():
            found = getattr(getattr(trt, owner), name, None)
            if found is None:
                told.append(f"{owner}.{name}")
                continue
            signature = re.match(rf"{name}\((.*?)\) ->", found.__doc__ or "", re.DOTALL)
            count = len(re.findall(r"(?:^|, )\w+: ", signature[1])) - 1 if signature else -1
            if name in ARGUMENTS and count != ARGUMENTS[name]:
                told.append(f"{owner}.{name} takes {count} arguments")
    return told


def _members(trt: Any, enumeration: str, names: Any) -> list[str]:
    known = getattr(getattr(trt, enumeration, None), "__members__", {})
    return [f"{enumeration}.{name.upper()}" for name in names if name.upper() not in known]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.layers.bindings import load

    module = load(Path(sys.argv[1]), sys.argv[2])
    print(json.dumps({"version": module.__version__, "missing": missing(module)}))  # noqa: T201
