"""Functions that machine code calls by an address, which is known under a name: in LLVM's language.

Each is called by a function of our own, which converts numbers, and gives room to results that are put somewhere. It
stays a function, so that this room is given back after every call.
"""

from __future__ import annotations

from typing import Any

_TYPES = {"d": "double", "l": "i64", "p": "ptr", "s": "i32"}


def calling(function: Any, real: str) -> tuple[str, dict[str, str]]:
    """The name of a function of numbers of a kind that calls another, and what is to be declared for it, by name. See
    `tapegrad.ops.special.calls`."""
    outputs = function.kinds.count("p")
    parameters, passed, lines, n = list[str](), list[str](), list[str](), 0
    for i, letter in enumerate(function.kinds):
        if letter == "p":
            lines.append(f"%p{i} = alloca double")
            passed.append(f"ptr %p{i}")
        elif letter == "s":
            passed.append("i32 0")
        else:
            parameters.append(f"{real} %x{n}")
            at = f"%x{n}"
            if letter == "l":
                lines.append(f"%w{n} = fptosi {real} {at} to i64")
                passed.append(f"i64 %w{n}")
            else:
                if real == "float":
                    lines.append(f"%w{n} = fpext float {at} to double")
                    at = f"%w{n}"
                passed.append(f"double {at}")
            n += 1
    called = f"@{function.symbol}({', '.join(passed)})"
    if outputs:
        lines += [f"call void {called}", f"%r = load double, ptr %p{function.kinds.index('p') + function.output}"]
    else:
        lines.append(f"%r = call double {called}")
    result = "%r"
    if real == "float":
        lines.append("%rounded = fptrunc double %r to float")
        result = "%rounded"
    name = f"{function.name}_of_{real}"
    types = ", ".join(_TYPES[letter] for letter in function.kinds)
    return name, {
        function.symbol: f"declare {'void' if outputs else 'double'} @{function.symbol}({types})",
        name: "\n".join([
            f"define internal {real} @{name}({', '.join(parameters)}) noinline {{", *lines, f"ret {real} {result}", "}",
        ]),
    }  # fmt: skip
