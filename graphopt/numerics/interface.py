"""Do two models take and give the same things?"""

from __future__ import annotations

from collections.abc import Sequence

from .ports import Port


def interface_problems(
    source_inputs: Sequence[Port],
    source_outputs: Sequence[Port],
    result_inputs: Sequence[Port],
    result_outputs: Sequence[Port],
) -> tuple[list[str], list[str], dict[str, str]]:
    """(problems, remarks, doubts): what a caller of the source would trip over in the result, and what it may ignore.

    Problems: inputs missing, demanded anew, or of another dtype, rank or size; outputs of other names, order or dtype.
    Remarks: a default input that is gone. Doubts: outputs of another declared shape, which is a problem unless a run
    shows that the source does not keep to its own declaration.
    """
    problems: list[str] = []
    doubts: dict[str, str] = {}
    gone: list[str] = []
    given = {port.name: port for port in result_inputs}
    for port in source_inputs:
        if port.name in given:
            problems += _mismatch("input", port, given[port.name])
        elif port.required:
            problems.append(f"input {port.name!r} is missing from the result")
        else:
            gone.append(port.name)
    remarks = [f"{len(gone)} inputs with defaults are gone from the result: {_some(gone)}"] if gone else []
    known = {port.name: port.required for port in source_inputs}
    for port in result_inputs:
        if port.required and port.name not in known:
            problems.append(f"the result demands an input {port.name!r} that the source does not have")
        elif port.required and not known[port.name]:
            problems.append(f"the result demands input {port.name!r}, which has a default in the source")
    if [p.name for p in source_outputs] != [p.name for p in result_outputs]:
        expected, found = ([p.name for p in ports] for ports in (source_outputs, result_outputs))
        missing = [name for name in expected if name not in found]
        said = f"output {missing[0]!r} is missing from the result" if missing else "the outputs differ in name or order"
        problems.append(f"{said}: {', '.join(found)} instead of {', '.join(expected)}")
    else:
        for port, other in zip(source_outputs, result_outputs, strict=True):
            if clash := _mismatch("output", port, other):
                same = port.kind == other.kind and port.elem_type == other.elem_type
                doubts.update({port.name: clash[0]} if same else {})
                problems += [] if same else clash
    return problems, remarks, doubts


def keeps_to(port: Port, shape: Sequence[int]) -> bool:
    """Whether a value of this shape is what an output declares."""
    if port.dims is None:
        return True
    return len(port.dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(port.dims, shape, strict=True)
    )


def _mismatch(what: str, port: Port, other: Port) -> list[str]:
    if what == "output" and port.kind == "unsupported" and not port.elem_type:
        return []  # the source declares no type: the run shows what it is
    if port.kind != other.kind:
        return [f"{what} {port.name!r} is a {other.kind} instead of a {port.kind}"]
    if port.elem_type != other.elem_type:
        return [f"{what} {port.name!r} is {other.dtype_name} instead of {port.dtype_name}"]
    if port.dims is None or other.dims is None:
        return []
    if what == "output" and not port.dims:
        return []  # what exporters declare that know no shape: the run shows what it is
    if len(port.dims) != len(other.dims):
        return [f"{what} {port.name!r} has rank {len(other.dims)} instead of {len(port.dims)}"]
    for axis, (a, b) in enumerate(zip(port.dims, other.dims, strict=True)):
        # An output may have been inferred more exactly; the run shows whether that is true.
        clash = (
            isinstance(b, int) and a != b if what == "input" else isinstance(a, int) and isinstance(b, int) and a != b
        )
        if clash:
            return [f"{what} {port.name!r} has {b} instead of {a or 'any size'} in dimension {axis}"]
    return []


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
