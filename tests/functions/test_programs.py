"""Programs written as people write them for NumPy and SciPy.

Gradients at points that were not recorded, against central differences of the program itself on plain numbers.
"""

import numpy as np
import pytest
import scipy.sparse
import scipy.special

import tapegrad as tg
from tapegrad import pytree
from tapegrad.scipy import integrate, interpolate, linalg, signal, sparse, special, stats

RNG = np.random.default_rng(0)
SIGNAL = np.sin(np.linspace(0.0, 20.0, 128)) + 0.1 * RNG.normal(size=128)
WALK = np.cumsum(RNG.normal(size=(30, 1)), axis=0) + RNG.normal(size=(30, 1))
PLACES, NAMED = RNG.normal(size=(60, 4)), RNG.integers(0, 2, 60)
COUNTS = RNG.poisson(2.0, size=60)
IMAGE = RNG.normal(size=(20, 24))
RETURNS = 0.02 * RNG.normal(size=(200, 4)) + 0.001
POINTS = np.concatenate([RNG.normal(size=(30, 2)), RNG.normal(size=(30, 2)) + 3.0])
PROGRAMS = {}


def at(*args):
    """Decorator: a program, and the arguments at which its gradient is looked at."""

    def register(f):
        PROGRAMS[f.__name__] = (f, args)
        return f

    return register


@at(0.1 * RNG.normal(size=16) + 0.2)
def spectrum(h):
    y = np.convolve(SIGNAL, h, mode="same") * np.hanning(128)
    power = np.abs(np.fft.rfft(y)) ** 2 / len(y)
    centroid = np.sum(np.fft.rfftfreq(128) * power) / power.sum()
    return centroid + 1e-2 * np.log10(power + 1e-9)[1:40].mean() + np.ptp(y)


@at(np.array([0.1, -0.2, 0.05]))
def kalman_filter(theta):
    q, r = np.exp(theta[0]), np.exp(theta[1])
    F, H = np.eye(2) + theta[2] * np.eye(2, k=1), np.array([[1.0, 0.0]])
    Q, R = q * np.diag([1.0, 0.1]), r * np.eye(1)
    m, P, likelihood = np.zeros(2), np.eye(2) * 10.0, 0.0
    for y in WALK:
        m, P = F @ m, F @ P @ F.T + Q
        S = H @ P @ H.T + R
        K = np.linalg.solve(S, H @ P).T
        v = y - H @ m
        m, P = m + K @ v, (np.eye(2) - K @ H) @ P
        likelihood += -0.5 * (v @ np.linalg.inv(S) @ v + np.linalg.slogdet(S)[1])
    return -likelihood


@at(RNG.normal(size=5), 0.3)
def logistic_regression(w, weight):
    p = scipy.special.expit(np.hstack([PLACES, np.ones((len(PLACES), 1))]) @ w)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    loss = -np.mean(NAMED * np.log(p) + (1 - NAMED) * np.log(1 - p))
    return loss + weight * np.linalg.norm(w[:-1]) ** 2 + 0.01 * np.linalg.norm(w, ord=1)


@at(RNG.normal(size=(30, 5)) * [3.0, 2.0, 1.0, 0.5, 0.2])
def principal_components(a):
    c = a - a.mean(axis=0)
    u, s, vt = np.linalg.svd(c, full_matrices=False)
    scores = u[:, :2] * s[:2]
    return np.mean((c - scores @ vt[:2]) ** 2) + (s**2 / np.sum(s**2))[:2].sum() + np.abs(scores).max()


@at(np.array([0.7, 1.3]))
def quadrature(p):
    x, w = np.polynomial.legendre.leggauss(20)
    t = 0.5 * p[1] * (x + 1.0)
    gauss = 0.5 * p[1] * np.sum(w * np.exp(-p[0] * t**2))
    grid = np.linspace(0, p[1], 101)
    f = np.sin(p[0] * grid)
    simpson = (grid[1] - grid[0]) / 3 * (f[0] + f[-1] + 4 * f[1:-1:2].sum() + 2 * f[2:-2:2].sum())
    return gauss * simpson + np.trapezoid(f, grid)


@at(np.array([1.2, 0.3]))
def blurred_image(p):
    r = np.arange(-3, 4)
    x, y = np.meshgrid(r, r, indexing="ij")
    kernel = np.exp(-0.5 * (x**2 + y**2) / p[0] ** 2)
    kernel = kernel / kernel.sum()
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(IMAGE, 3, mode="reflect"), (7, 7))
    sharp = IMAGE + p[1] * (IMAGE - np.einsum("ijkl,kl->ij", windows, kernel))
    down, right = np.gradient(sharp)
    return np.mean(np.sqrt(down**2 + right**2 + 1e-3)) + signal.convolve(IMAGE, kernel, "valid").std()


@at(RNG.normal(size=4))
def portfolio(z):
    w = np.exp(z - z.max())
    w = w / w.sum()
    r = RETURNS @ w
    shortfall = r[r <= np.percentile(r, 5)].mean()
    worth = np.cumprod(1 + r)
    return 5 * w @ np.cov(RETURNS, rowvar=False) @ w - shortfall + np.max(np.maximum.accumulate(worth) - worth)


@at({"mu": RNG.normal(size=(3, 2)), "log_s": np.zeros((3, 2)), "pi": np.zeros(3)})
def gaussian_mixture(q):
    d = (POINTS[:, None, :] - q["mu"][None]) / np.exp(q["log_s"])
    a = -0.5 * np.sum(d**2, axis=-1) - q["log_s"].sum(axis=1) + q["pi"] - np.logaddexp.reduce(q["pi"])
    total = special.logsumexp(a, axis=1)
    share = np.exp(a - total[:, None])
    return -total.mean() + 0.1 * np.mean(scipy.special.xlogy(share, share))


@at(1.0 + 0.1 * np.exp(-np.linspace(-3, 2, 50) ** 2), 0.05)
def shallow_water(h, viscosity):
    u = np.zeros_like(h)
    for _ in range(20):
        dh = -(np.roll(h * u, -1) - np.roll(h * u, 1)) / 2.0
        du = -9.81 * (np.roll(h, -1) - np.roll(h, 1)) / 2.0 - u * (np.roll(u, -1) - np.roll(u, 1)) / 2.0
        smooth = np.roll(u, -1) - 2 * u + np.roll(u, 1)
        h, u = h + 0.1 * dh, u + 0.1 * (du + viscosity * smooth)
    return 0.5 * np.sum(h * u**2 + 9.81 * h**2) + np.std(h) + (u**2).max()


@at(np.array([1.0, 0.5, 0.2]), 0.8)
def string(amplitudes, c):
    x = np.linspace(0, np.pi, 41)
    y = np.sum(amplitudes[:, None] * np.sin(np.outer(np.arange(1, 4), x)), axis=0)
    v = np.zeros_like(y)
    for _ in range(20):
        bend = c**2 * np.gradient(np.gradient(y, x), x)
        v = v + 0.01 * np.concatenate(([0.0], bend[1:-1], [0.0]))
        y = y + 0.01 * v
    return np.trapezoid(v**2 + c**2 * np.gradient(y, x) ** 2, x) / 2


@at(np.array([0.3, -0.7, 1.1]))
def robot_arm(angles):
    T = np.eye(4)
    for i, (angle, length) in enumerate(zip(angles, [1.0, 0.8, 0.5], strict=True)):
        c, s = np.cos(angle), np.sin(angle)
        rows = [[c, -s, 0.0, length * c], [s, c, 0.0, length * s], [0.0, 0.0, 1.0, 0.1 * i], [0.0, 0.0, 0.0, 1.0]]
        T = T @ tg.stack(rows)
    turned = T[:3, :3]
    away = np.linalg.norm(T[:3, 3] - np.array([1.0, 1.0, 0.2]))
    return away**2 + 0.1 * np.arccos((np.trace(turned) - 1) / 2) + np.linalg.norm(turned - np.eye(3), "fro")


@at(np.array([0.1, 0.2, -0.3, 0.1]), -0.5)
def count_regression(beta, log_alpha):
    mu, r = np.exp(PLACES @ beta + 0.5), np.exp(-log_alpha)
    likelihood = scipy.special.gammaln(COUNTS + r) - scipy.special.gammaln(r)
    likelihood += r * np.log(r / (r + mu)) + scipy.special.xlogy(COUNTS, mu / (r + mu))
    return -likelihood.sum() + 0.01 * scipy.special.rel_entr(COUNTS, mu).sum() - stats.poisson.logpmf(COUNTS, mu).mean()


@at(0.6, 0.15, 0.01)
def epidemic(beta, gamma, infected):
    def rates(y, t, beta, gamma):
        s, i, _ = y
        return [-beta * s * i, beta * s * i - gamma * i, gamma * i]

    days = np.linspace(0, 30, 16)
    y = integrate.odeint(rates, [1.0 - infected, infected, 0.0], days, args=(beta, gamma), rtol=1e-11, atol=1e-11)
    return np.sum((y[:, 1] - 0.1) ** 2) + y[-1, 2]


@at(RNG.normal(size=8), np.array([0.5, 2.2, 6.1]))
def splines(y, where):
    curve = interpolate.CubicSpline(np.arange(8.0), y)
    rough = np.diff(y, n=2)
    line = np.linalg.lstsq(np.vander(np.arange(8.0), 2), y, rcond=None)[0]
    return np.sum(curve(where) ** 2) + curve(where, 1).sum() + rough @ rough + np.polyval(line, where).prod()


@at(0.1 + np.exp(-np.linspace(-2, 1, 30) ** 2), 0.3)
def heat(u, k):
    laplacian = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(30, 30), format="csc")
    step = sparse.csc_array((-0.1 * k * laplacian.data, laplacian.indices, laplacian.indptr), laplacian.shape)
    step = scipy.sparse.csc_array(scipy.sparse.eye_array(30)) + step
    for _ in range(5):
        u = sparse.linalg.spsolve(step, u)
    return u @ (laplacian @ u) + np.max(u)


@at(np.array([0.1, 0.0, -2.0]))
def gaussian_process(theta):
    length, size, noise = np.exp(theta)
    x, at = np.linspace(0, 4, 15), np.array([1.1, 2.7])
    K = size**2 * np.exp(-0.5 * np.subtract.outer(x, x) ** 2 / length**2) + noise**2 * np.eye(15)
    factor = linalg.cho_factor(K, lower=True)
    weights = linalg.cho_solve(factor, np.sin(x))
    k = size**2 * np.exp(-0.5 * np.subtract.outer(at, x) ** 2 / length**2)
    variance = size**2 - np.einsum("ij,ji->i", k, linalg.cho_solve(factor, k.T))
    return 0.5 * np.sin(x) @ weights + np.log(np.diag(factor[0])).sum() + (k @ weights).sum() + variance.sum()


@at(RNG.normal(size=10))
def warping(a):
    cost = (a[:, None] - SIGNAL[None, :12]) ** 2
    before = np.cumsum(cost[0])
    for i in range(1, len(a)):
        row = [before[0] + cost[i, 0]]
        for j in range(1, 12):
            row.append(cost[i, j] + min(before[j], before[j - 1], row[j - 1]))
        before = row
    return before[-1]


@at(RNG.uniform(0, 3, size=(8, 3)))
def molecules(places):
    d = places[:, None] - places[None]
    d = d - 3.0 * np.round(d / 3.0)
    i, j = np.triu_indices(len(places), k=1)
    r2 = np.sum(d[i, j] ** 2, axis=-1) + 0.3
    return np.sum(4 * (r2**-6 - r2**-3)) + np.sum(np.where(r2 < 1.5, (1.5 - r2) ** 2, 0))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    f, args = PROGRAMS[name]
    leaves, structure = pytree.flatten(args)
    gradient = tg.grad(f, argnums=tuple(range(len(args))))
    gradient(*pytree.unflatten(structure, [0.97 * x + 0.013 for x in leaves]))
    found, _ = pytree.flatten(gradient(*args))
    h = 1e-4
    for i, (x, g) in enumerate(zip(leaves, found, strict=True)):
        v = np.random.default_rng(i).normal(size=np.shape(x))

        def moved(t, i=i, x=x, v=v):
            return float(f(*pytree.unflatten(structure, [*leaves[:i], x + t * v, *leaves[i + 1 :]])))

        difference = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h)
        np.testing.assert_allclose(np.sum(g * v), difference, rtol=2e-6, atol=1e-8)
