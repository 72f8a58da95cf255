"""Which standard operators compute each element of their result from the elements at the same place."""

UNARY = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu".split()
)
"""Of their first input; any further inputs are scalars (Clip)."""

BINARY = frozenset(
    "Add Sub Mul Div Pow Mod PRelu And Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Less LessOrEqual Greater "
    "GreaterOrEqual".split()
)
"""Of two inputs, broadcast to each other (PRelu: the second to the first)."""

VARIADIC = frozenset("Max Min Sum Mean Where".split())
"""Of any number of inputs, broadcast to each other (Where: three)."""

REDUCTIONS = frozenset(
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare".split()
)
