"""Recordings with all kinds of instructions, that tests save, load, and damage."""

import collections
import dataclasses

import numpy as np
import scipy.special

import tapegrad as tg

Point = collections.namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Layer:
    w: object
    b: object


def branching(p, n, kind):
    x = p["w"][0]
    if kind == "steep":
        x = 2.0 * x
    if x[0] > 0.0:
        return np.sum(np.sin(x) * x) * n, {"largest": np.max(x), "where": np.argmax(x)}
    return np.sum(x @ x) / (1 + n), {"largest": np.min(x), "where": np.argmin(x)}


def scalars(x, y):
    z = x
    for i in range(12):
        z = np.where(z > 2.0, z / y, z * y + np.hypot(x, i)) + np.tanh(z)
    return z**3


def arrays(x, y):
    a = np.exp(x[::-1, :].T) @ np.maximum(x, 0.2) + y[:, None]
    b = np.cumsum(a, 0) - np.mean(a, 1, keepdims=True)
    c = np.concatenate([b[0], np.sort(b, axis=1)[:, -1], np.prod(b, 1), np.linalg.norm(b, axis=0)])
    return np.sum(np.std(c) * c[np.array([0, 2, 2, 5])]) + tg.logsumexp(c)


def network(model, x, labels):
    h = np.tanh(x @ model.w + model.b)
    return np.mean(tg.cross_entropy(h, labels))


def normalised(x, w, b):
    groups = tg.group_norm(tg.batch_norm(x, None, None, w, b), 2, b, w)
    return np.sum(tg.layer_norm(np.tanh(groups), 3, w[:3]) ** 3)
def convolutions(x, w, b):
    maps = tg.max_pool(np.tanh(tg.conv(x, w, b, stride=2, padding=1)), (2, 2), stride=1)
    return np.sum(tg.avg_pool(tg.conv_transpose(maps, w, stride=2), (3,), padding=1) ** 3)


def matrices(a):
    s = a @ a.T + 3.0 * np.eye(3)
    w, _ = np.linalg.eigh(s)
    spectrum = np.fft.rfft(np.linalg.solve(s, a[0]))
    return np.linalg.slogdet(s)[1] + np.sum(w * w) + np.sum(np.abs(spectrum) ** 2) + np.trace(np.linalg.cholesky(s))


def special(x):
    return np.sum(scipy.special.gammaln(x) * scipy.special.j0(x))


def logistic(r, x):
    return tg.scan(lambda x, r: (r * x * (1.0 - x), x), x, r, 3000, memory_limit=4000)[0]


def views(x):
    return Point(x.T, x[::-1, 1]), np.zeros(0), 7, None, "text"


def named():
    """Each recording with the arguments that it was recorded at, by a name."""
    rng = np.random.default_rng(3)
    a, b = rng.uniform(0.3, 1.5, (3, 3)), rng.uniform(0.3, 1.5, 3)
    big = rng.uniform(0.1, 1.0, (40, 60))
    labels = np.array([0, 2, 1, 1])
    single = rng.uniform(-1.0, 1.0, (4, 3)).astype(np.float32)
    model = Layer(a.astype(np.float32), b.astype(np.float32))
    layers = rng.normal(size=(3, 4, 3)), *rng.normal(size=(2, 4))
    pictures = rng.normal(size=(2, 2, 7, 6)), rng.normal(size=(3, 2, 3, 2)), b
    given = {
        "branching": (branching, ({"w": [b]}, 3, "steep")),
        "scalars": (scalars, (0.4, 1.2)),
        "gradient of scalars": (tg.grad(scalars, (0, 1)), (0.4, 1.2)),
        "arrays": (arrays, (a, b)),
        "gradient of arrays": (tg.grad(arrays), (a, b)),
        "network": (network, (model, single, labels)),
        "gradient of a network": (tg.grad(network), (model, single, labels)),
        "normalised": (normalised, layers),
        "gradient of normalised": (tg.grad(normalised, (0, 1, 2)), layers),
        "convolutions": (convolutions, pictures),
        "gradient of convolutions": (tg.grad(convolutions, (0, 1, 2)), pictures),
        "matrices": (matrices, (a,)),
        "gradient of matrices": (tg.grad(matrices), (a,)),
        "special": (special, (b,)),
        "loop": (logistic, (np.full(3000, 3.2), 0.3)),
        "gradient of a loop": (tg.grad(logistic, 1), (np.full(3000, 3.2), 0.3)),
        "views": (views, (a,)),
        "long rows": (lambda x: np.sum(np.sqrt(x) * np.cos(x[:, ::-1]) + x[:1]), (big,)),
        "stencil": (lambda x: np.sum((x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2), (big[0],)),
    }
    found = {}
    for name, (f, args) in given.items():
        recording = tg.record(f, *args)
        found[name] = recording, args
    found["branching"][0]({"w": [-b]}, 2, "steep")
    return found


# Arguments of the loaded recordings that need classes of this module's.
CLASSES = (Layer, Point)
