"""Verification that a result computes what its source computes: feeds, execution, tolerances, comparison."""

from .difference import Difference, Value, compare
from .execute import ChildDied, Execution, ExecutionError, OutOfTime, Runner, execute
from .feeds import make_feeds
from .npz import check_feeds, load_npz
from .ports import Port, input_ports, output_ports, read_outline
from .ranges import Input, Values, read_inputs
from .shapes import sample_shapes
from .tolerance import EXACT, TABLE, Tolerance, engine_tolerance, tolerance_for
from .verify import Dropped, Verification, verify

__all__ = [
    "EXACT",
    "TABLE",
    "ChildDied",
    "Difference",
    "Dropped",
    "Execution",
    "ExecutionError",
    "Input",
    "OutOfTime",
    "Port",
    "Runner",
    "Tolerance",
    "Value",
    "Values",
    "Verification",
    "check_feeds",
    "compare",
    "engine_tolerance",
    "execute",
    "input_ports",
    "load_npz",
    "make_feeds",
    "output_ports",
    "read_inputs",
    "read_outline",
    "sample_shapes",
    "tolerance_for",
    "verify",
]
