"""How an instruction over many elements is laid out in the side array.

A scalar instruction is four numbers: opcode, out, a, b. An instruction over many elements has RUN added to its
opcode; `a` is then the position k of its record in the side array, and `b` the number of its output elements:

    side[k + KIND]     ELEMENTWISE or STRUCTURED; in a group of elementwise runs that go block by block together,
                       FIRST, INSIDE or LAST (see `sweeps.analysis.group`)
    side[k + LENGTH]   numbers in this record
    side[k + OUT]      first output slot; outputs are always dense
    side[k + COUNT]    output elements
    side[k + ARITY]    operands, and for operand j, at q = k + OPERANDS + OPERAND_SIZE * j:
    side[q + SLOT]       slot of its element [0, 0, ...]
    side[q + LOW]        it touches slots SLOT + LOW up to,
    side[q + HIGH]       but not including, SLOT + HIGH
    side[q + ACTIVE]     1 if a gradient must reach it
    side[...]          what the operation needs besides: counts, strides, flags
"""

KIND, LENGTH, OUT, COUNT, ARITY, OPERANDS = range(6)
ELEMENTWISE, STRUCTURED, FIRST, INSIDE, LAST = range(5)
SLOT, LOW, HIGH, ACTIVE = range(4)
OPERAND_SIZE = 4

# Where the parameters of an operation of one or two operands start.
UNARY_PARAMS = OPERANDS + OPERAND_SIZE
BINARY_PARAMS = OPERANDS + 2 * OPERAND_SIZE

# An elementwise run has for each operand a mode and its strides, after ndim and the shape.
DENSE, UNIFORM, STRIDED = range(3)
