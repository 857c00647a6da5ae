"""Calling functions of `scipy.special` from compiled code. Imported only when something is compiled."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tapegrad.ops.special.calls import FUNCTIONS

_DOUBLE, _WHOLE, _INT = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
_LLVM = {"d": _DOUBLE, "l": _WHOLE, "p": _DOUBLE.as_pointer(), "s": _INT}


def _calling(foreign, kinds):
    # In float32 the function is called with float64 all the same, and its result is rounded. Numba knows an
    # implementation by the kinds of its arguments alone, so they say which it is.
    real = types.float32 if types.float32 in kinds else types.float64

    def generate(context, builder, signature, args):
        given = iter(args)
        places, passed = [], []
        for letter in foreign.kinds:
            if letter == "p":
                places.append(cgutils.alloca_once(builder, _DOUBLE))
                passed.append(places[-1])
            elif letter == "s":
                passed.append(ir.Constant(_INT, 0))
            else:
                x = context.cast(builder, next(given), real, types.float64)
                passed.append(builder.fptosi(x, _WHOLE) if letter == "l" else x)
        kind = ir.FunctionType(ir.VoidType() if places else _DOUBLE, [_LLVM[letter] for letter in foreign.kinds])
        called = builder.call(cgutils.get_or_insert_function(builder.module, kind, foreign.symbol), passed)
        result = builder.load(places[foreign.output]) if places else called
        return context.cast(builder, result, types.float64, real)

    return real(*[real] * len(kinds)), generate


def __getattr__(name):
    # Made when generated text imports it. An intrinsic has as many parameters as it is called with.
    function = FUNCTIONS.get(name)
    if function is None:
        raise AttributeError(name)
    names = ", ".join(function.__code__.co_varnames[: function.__code__.co_argcount])
    space = {"calling": _calling, "foreign": function.__foreign__}
    exec(f"def {name}(typingctx, {names}):\n    return calling(foreign, ({names},))\n", space)
    made = globals()[name] = intrinsic(space[name])
    return made
