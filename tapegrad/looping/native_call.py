"""Calling a compiled program from compiled code. Imported only when something is compiled."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def call_program(typingctx: Any, address: Any, words: Any) -> Any:
    """Call a compiled program, as `native.Native.sweep` does; words[0] and words[1] are what it is called with."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[1])(context, builder, args[1]).data
        i64, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        given = [
            builder.inttoptr(builder.load(builder.gep(data, [ir.Constant(i64, n)])), pointer) for n in (0, 1)
        ]
        function = builder.inttoptr(args[0], ir.FunctionType(i64, [pointer] * 2).as_pointer())
        return builder.call(function, given)

    return types.int64(types.int64, words), generate
