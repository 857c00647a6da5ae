"""The pieces that random programs are put together from.

{x}, {y}, {z} stand for variables, {s} and {t} for single numbers, {c} for a number, {k} for a small whole number,
{M} for a captured array, {I} for captured positions, {B} for a captured mask, {n} for what is given a value.
"""

ELEMENTWISE = [
    "np.sin({x})", "np.cos({x})", "np.tanh({x})", "np.exp({x})", "np.exp(-{x} * {x})", "np.log1p({x} ** 2)",
    "np.tan({x})", "np.sqrt(1.0 + {x} ** 2)", "np.sqrt({x})", "np.log({x})", "np.arctan({x})", "np.arcsinh({x})",
    "abs({x})", "-{x}", "{x} ** 3", "{x} ** 2", "{x} ** 0.5", "{x} ** -1", "1.0 / {x}", "2.0 ** {x}", "{x} ** {c}",
    "np.square({x})", "np.reciprocal({x})", "np.sinh({x})", "np.cosh({x})", "np.expm1({x})", "np.exp2({x})",
    "np.log2({x})", "np.cbrt({x})", "np.arcsin({x})", "np.sign({x})", "np.floor({x} * 3) + {x}", "np.ceil({x}) * {x}",
    "np.rint({x}) + {x}", "{x} % 1.5", "{x} // 0.7 + {x}", "np.maximum({x}, {c})", "np.minimum({c}, {x})",
    "np.clip({x}, -0.5, 0.8)", "np.where({x} > {c}, {x}, 0.3 * {x})",
    "np.where({x} < 0, np.exp({x}), np.sqrt(1 + abs({x})))", "{c} * {x} + {c}", "{c} - {x} / {k}",
    "np.absolute({x}) + np.trunc({x})", "(lambda t: t * t + t)({x})", "({x} > {c}) * {x}", "{x} + 0",
]  # fmt: skip
PAIRS = [
    "{x} + {y}", "{x} - {y}", "{x} * {y}", "{x} / {y}", "{x} / (1.0 + {y} * {y})", "np.maximum({x}, {y})",
    "np.minimum({x}, {y})", "np.hypot({x}, {y})", "np.arctan2({x}, {y})", "np.logaddexp({x}, {y})",
    "(1.5 + np.tanh({x})) ** {y}", "{x} ** {y}", "np.where({x} > {y}, {x} * {y}, {x} - {y})", "{x} * {y} + {z}",
    "np.where(({x} > {c}) & ({y} < {c}), {x}, {z})", "{x} @ {y}", "np.dot({x}, {y})", "np.outer({x}, {y})",
    "{x} * {M}", "{M} - {x}", "{x} @ {M}", "{M} @ {x}", "np.inner({x}, {y})", "np.tensordot({x}, {y}, 1)",
    "{x}[..., None] * {y}", "{x}[:, None] - {y}[None, :]", "np.einsum('i,i->', {x}, {y})",
    "np.einsum('ij,j->i', {x}, {y})", "np.einsum('ij,jk->ki', {x}, {y})", "np.einsum('ij,kj,j->ik', {x}, {y}, {z})",
    "np.vdot({x}, {y})", "np.average({x}, weights=np.exp({y}))", "np.multiply({x}, {y}) - np.subtract({y}, {x})",
]  # fmt: skip
REDUCTIONS = [
    "np.sum({x})", "{x}.sum(axis=0)", "np.sum({x}, axis=-1, keepdims=True)", "np.sum({x}, axis=(0, 1))",
    "np.mean({x})", "np.mean({x}, axis=1)", "{x}.mean(axis=0, keepdims=True)", "np.var({x})", "np.var({x}, axis=0)",
    "np.std({x})", "np.std({x}, axis=-1)", "np.max({x})", "np.min({x}, axis=0)", "{x}.max(axis=-1, keepdims=True)",
    "np.prod({x})", "np.max({x}, axis=(0, 2))", "np.prod({x}, axis=-1)", "np.prod(np.tanh({x}) + 1.5, axis=0)",
    "np.cumsum({x})", "np.cumsum({x}, axis=0)", "np.linalg.norm({x})", "np.linalg.norm({x}, axis=-1)",
    "np.trace({x})", "np.ptp({x})", "np.add.reduce({x})", "sum({x})", "np.sum({x} * {x}, axis=0)",
    "np.log(np.sum(np.exp({x}), axis=-1))", "np.exp({x} - np.max({x})) / np.sum(np.exp({x} - np.max({x})))",
    "np.linalg.det({x} @ {x}.T + eye(len({x})))", "np.linalg.inv({x} @ {x}.T + 2.0 * eye(len({x})))",
    "np.linalg.solve({x} + 4.0 * eye(len({x})), {y})", "np.sum({x}[{x} > {c}] ** 2)", "np.sum(np.diff({x}) ** 2)",
    "max({x})", "np.sqrt(np.sum({x} ** 2))",
]  # fmt: skip
VIEWS = [
    "{x}.T", "{x}[::-1]", "{x}[1:]", "{x}[..., -1]", "{x}[0]", "{x}.reshape(-1)", "{x}.ravel()", "{x}[None]",
    "np.expand_dims({x}, -1)", "{x}[:, ::2]", "{x}[:, 1:] - {x}[:, :-1]", "np.swapaxes({x}, 0, -1)",
    "np.moveaxis({x}, 0, 1)", "np.flip({x}, 0)", "np.transpose({x})", "np.broadcast_to({x}, (2, *np.shape({x})))",
    "np.squeeze({x}[None])", "np.diag({x})", "np.diagonal({x})", "{x}[-1, ::-1]", "{x}[0:1] * {x}[1:]",
    "{x}.reshape(3, 2)", "{x}.reshape(2, -1)", "np.atleast_2d({x})", "np.split({x}, 2)[1]",
    "np.array_split({x}, 2)[0]", "{x}[:2, :2]", "{x}[1:][::-1][:1]",
]  # fmt: skip
GATHERS = [
    "{x}[{I}]", "{x}[:, {I}]", "{x}[{I}, {I}]", "np.take({x}, {I}, axis=0)", "np.take({x}, {I}, axis=-1)",
    "np.roll({x}, 1)", "np.roll({x}, -1, axis=0)", "np.tile({x}, 2)", "np.repeat({x}, 2)",
    "np.repeat({x}, 2, axis=0)", "np.triu({x})", "np.tril({x}, -1)", "np.pad({x}, 1)", "np.concatenate([{x}, {y}])",
    "np.concatenate([{x}, {y}], axis=-1)", "np.stack([{x}, {y}])", "np.stack([{x}, {c} * {x}, {x}], axis=-1)",
    "np.hstack([{x}, {y}])", "np.vstack([{x}, {y}])", "np.column_stack([{x}, {y}])", "np.sort({x})",
    "np.sort({x}, axis=0)[0]", "{x}[np.argmax({x})]", "{x}[np.argsort({x})][1:]", "{x}[np.argmin({x}, axis=0)]",
    "np.take_along_axis({x}, np.argsort({x}, axis=-1), axis=-1)", "{x}[index]", "{x}[{B}]",
    "np.concatenate([{x}.ravel(), {y}.ravel(), {x}.ravel()])", "np.diff({x}, axis=0)",
]  # fmt: skip
SCALARS = [
    "max({s}, {t})", "min({s}, {c}, {t})", "{s} if {s} > {c} else {t}", "{s} * {t} if {s} < {t} else {s} + {t}",
    "abs({s}) + {t}", "{s} * {s} - {t} / (1.0 + {t} ** 2)", "sum([{s}, {t}, {c}])", "{s} * ({t} > {c})",
    "{s} + int({t} * 2)", "cond({s} > {c}, lambda u: u * u, lambda u: 0.5 * u, {t})", "sorted([{s}, {t}])[0] * {c}",
    "{s} ** 2 + {c}",
]  # fmt: skip
BLOCKS = [
    "{n} = {x}\nfor i in range({k}):\n    {n} = np.tanh({n}) * {c} + {x} * i",
    "{n} = {x} * 1.0\nfor i in range({k}):\n    {n} = {n} + 0.1 * {n} * {y}",
    "{n} = {s}\nfor i in range({k}):\n    {n} = {n} - 0.1 * np.sin({n}) * {t}",
    "{n} = 0.0\nfor row in {x}:\n    {n} = {n} + np.sum(np.sin(row)) * {s}",
    "{n} = {c}\nfor k, e in enumerate({x}):\n    {n} = {n} * 0.5 + np.cos(e) * (k + 1)",
    "if {s} > {c}:\n    {n} = {x} * {s}\nelse:\n    {n} = np.sin({x}) + {c}",
    "if {s} > {t}:\n    {n} = {x} + {s}\nelif {t} > {c}:\n    {n} = {x} * {t}\nelse:\n    {n} = -{x}",
    "{n} = {s}\nwhile {n} > abs({c}):\n    {n} = {n} * 0.5 - 0.2",
    "{n} = {s}\nsteps = 0\nwhile abs({n}) < 1.5 and steps < 4:\n    {n}, steps = {n} * 1.5 + 0.1 * {t}, steps + 1",
    "{n} = np.stack([np.sin(e) * (k + 1) for k, e in enumerate({x})])",
    "{n} = sum(e * e for e in {x})",
    "{n} = np.stack([e if e > {c} else e * e for e in {x}])",
    "pair = ({x}, {y})\n{n} = pair[0] * {c} + pair[1]",
    'held = {{"a": {x}, "b": [{y}, {s}]}}\n{n} = held["a"] * held["b"][1] + np.sum(held["b"][0])',
    "parts = []\nfor i in range({k}):\n    parts.append({x} * (i + 1) + {s})\n{n} = parts[-1] * parts[0]",
    "def inner(u, w):\n    return np.tanh(u) * w + {c}\n{n} = inner({x}, {y}) + inner({s}, {t})",
    "{n} = {x}\nfor i in range(int(abs({s}) * 2) % 3):\n    {n} = {n} * 0.5 + i",
    "{n} = {x} * 1.0\n{n} += {y}\n{n} *= {c}",
    "{n} = {x}\nfor i in range(len({x}) - 1):\n    {n} = {n} * np.sin({x}[i] - {x}[i + 1])",
    "{n} = fori_loop(0, {k}, lambda i, u: np.sin(u) + {c} * i, {x})",
    "{n} = fori_loop(0, {k}, lambda i, u: (u[0] * 0.9 + u[1] * 0.1, u[0] * u[1]), ({x}, {y}))[1]",
    "{n} = scan(lambda u, e: (u * 0.5 + np.sum(e), u * e), {s}, {x})[1]",
    "{n} = scan(lambda u, e: (np.tanh(u + e), u), {s}, {x})[0]",
    "{n} = while_loop(lambda u: u > abs({c}), lambda u: u * 0.6 - 0.1, {s})",
    "{n} = cond({s} > {c}, lambda u, w: u * w, lambda u, w: u - w, {x}, {y})",
    "{n} = 0.0\nfor i in range(len({x})):\n    for j in range(i):\n"
    "        {n} = {n} + np.sum(({x}[i] - {x}[j]) ** 2) * {c}",
    "{n} = [e for e in {x} if np.sum(e) > {c}]\n{n} = sum({n}[0:2], {s})",
    "best = {x}[0]\nfor e in {x}[1:]:\n    if np.sum(e) > np.sum(best):\n        best = e\n{n} = best * {s}",
]  # fmt: skip
# Each table, and how often a piece comes from it.
FAMILIES = [
    (ELEMENTWISE, 0.28), (PAIRS, 0.2), (REDUCTIONS, 0.12), (VIEWS, 0.1), (GATHERS, 0.1), (SCALARS, 0.07),
    (BLOCKS, 0.13),
]  # fmt: skip
