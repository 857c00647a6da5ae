"""Damage files of recordings, load them, and replay what loads: `python -m tests.fuzz_load --count 10000 --seed 0`.

Checksums are computed again, so that what is damaged reaches the checker. Each file must be refused with an error of
ours, or load; what loads is replayed, for the value and the gradient, in an arena between numbers that must not be
touched. Cases run in processes of their own. One that crashes, hangs or raises anything else is printed, and its file
is kept. Ends with 1 if there was any.
"""

import argparse
import collections
import json
import multiprocessing
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np

import tapegrad as tg
from tapegrad import pytree
from tapegrad.arguments import Input
from tapegrad.errors import TapegradError
from tapegrad.program import Code
from tapegrad.storage.container import Section, packed, unpacked

MEMORY = 1 << 24
# Numbers around an arena that nothing may touch, and what they are.
BESIDE, UNTOUCHED = 1 << 14, 12345.678
# What functions of matrices raise of numbers, and not of files.
OF_NUMBERS = (TapegradError, np.linalg.LinAlgError, ArithmeticError, MemoryError)
SECONDS, HANGS = 2.0, 60.0
TELLING = [0, 1, 2, 3, 5, 7, 8, 64, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1]


class TooLong(BaseException):
    """A replay that takes long and can be interrupted is no fault: the file says so many steps."""


def stop(_, frame):
    """End a replay that takes long; but not what compiles, which is broken for good where it is interrupted."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in ("numba", "llvmlite", "importlib")):
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            return
        frame = frame.f_back
    raise TooLong


def with_checksum(data):
    """A file whose length and checksum are right."""
    body = struct.pack("<Q", len(data)) + bytes(data[24:])
    return bytes(data[:12]) + struct.pack("<I", zlib.crc32(body)) + body


def damaged(data, rng):
    """A file that differs from another in few places."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        # Little is left of some.
        data = rng.choice(WAYS)(data, rng) if len(data) > 100 else data
    return data


def flipped(data, rng):
    found = bytearray(data)
    for at in rng.integers(24, len(data), int(rng.integers(1, 4))):
        found[at] ^= 1 << int(rng.integers(8))
    return with_checksum(found)


def cut(data, rng):
    return with_checksum(data[: int(rng.integers(24, len(data)))])


def swapped(data, rng):
    found, n = bytearray(data), int(rng.choice([4, 8, 32]))
    a, b = (n * (int(x) // n) for x in rng.integers(24 + n, len(data) - n, 2))
    found[a : a + n], found[b : b + n] = found[b : b + n], found[a : a + n]
    return with_checksum(found)


def _sections(data):
    try:
        return [Section(s.kind, s.number, s.data.copy()) for s in unpacked(data)]
    except TapegradError:
        return []


def changed_numbers(data, rng):
    """One number of a section is another."""
    sections = [s for s in _sections(data) if s.data.size and s.data.dtype != np.uint8]
    if not sections:
        return flipped(data, rng)
    numbers = sections[int(rng.integers(len(sections)))].data
    return _changed(data, sections, numbers, rng)


def _changed(data, sections, numbers, rng):
    at, info = int(rng.integers(numbers.size)), numbers.dtype
    if info.kind == "f":
        numbers[at] = rng.choice([0.0, -1.0, 0.5, 1e300 if info.itemsize > 4 else 1e30, np.nan, np.inf, 3.0])
    else:
        old = int(numbers[at])
        new = int(rng.choice([old + 1, old - 1, 2 * old, -old, int(numbers[int(rng.integers(numbers.size))])]))
        new = int(rng.choice(TELLING)) if rng.random() < 0.4 else new
        bounds = np.iinfo(info)
        numbers[at] = min(max(new, int(bounds.min)), int(bounds.max))
    return packed(_replaced(data, sections))


def _replaced(data, sections):
    own = {(s.kind, s.number): s for s in sections}
    return [own.get((s.kind, s.number), s) for s in _sections(data)]


def changed_json(data, rng):
    """One node of the description is another."""
    sections = _sections(data)
    about = [s for s in sections if s.kind == "META"]
    try:
        tree = json.loads(about[0].data.tobytes().decode())
    except (IndexError, ValueError):
        return flipped(data, rng)
    nodes = list(_nodes(tree))
    holder, key = nodes[int(rng.integers(len(nodes)))]
    old = holder[key]
    kind = int(rng.integers(5))
    if kind == 0 and type(old) is int:
        holder[key] = int(rng.choice([old + 1, old - 1, -old, *TELLING]))
    elif kind == 1 and type(old) is list and old:
        old.pop(int(rng.integers(len(old))))
    elif kind == 2 and type(old) is list and old:
        old.append(old[int(rng.integers(len(old)))])
    elif kind == 3:
        other, name = nodes[int(rng.integers(len(nodes)))]
        holder[key] = json.loads(json.dumps(other[name]))
    else:
        holder[key] = [None, True, -1, 1e300, "", [], {}, "x" * 3000, 10**400][int(rng.integers(9))]
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    return packed([s._replace(data=text) if s.kind == "META" else s for s in sections])


def _nodes(tree):
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _nodes(tree[key])


def changed_names(data, rng):
    """Operations exchange their names."""
    sections = _sections(data)
    for s in sections:
        if s.kind == "OPER":
            names = s.data.tobytes().decode("utf-8", "replace").split("\n")
            others = [*names, "sum", "gather", "matmul", "affine", "external", "where", "assemble", "max", "no"]
            names[int(rng.integers(len(names)))] = str(rng.choice(others))
            text = np.frombuffer("\n".join(names).encode(), np.uint8)
            return packed([t._replace(data=text) if t is s else t for t in sections])
    return flipped(data, rng)


def exchanged(data, rng):
    """Two sections of one type have each other's numbers."""
    sections = _sections(data)
    if len(sections) < 2:
        return flipped(data, rng)
    a, b = (sections[int(i)] for i in rng.integers(0, len(sections), 2))
    own = {id(a): b.data, id(b): a.data}
    return packed([s._replace(data=own.get(id(s), s.data)) for s in sections])


WAYS = [flipped, cut, swapped, changed_numbers, changed_numbers, changed_numbers, changed_numbers, changed_json,
        changed_json, changed_names, exchanged]  # fmt: skip


def watch_arenas():
    """Have all arenas stand between numbers that nothing may touch; returns what checks that nothing has."""
    made = []

    def arena(code):
        whole = np.full(code.size + 1 + 2 * BESIDE, UNTOUCHED, code.dtype)
        made.append(whole)
        values = whole[BESIDE : BESIDE + code.size + 1]
        values[:] = 0.0
        code.put_constants(values)
        return values

    Code.arena = arena

    def check():
        for whole in made:
            expected = whole.dtype.type(UNTOUCHED)
            assert (whole[:BESIDE] == expected).all() and (whole[-BESIDE:] == expected).all(), "an arena was left"
        made.clear()

    return check


def arguments(spec, rng):
    """Arguments that fit a spec."""
    leaves = []
    for leaf in spec.leaves:
        if not isinstance(leaf, Input):
            leaves.append(leaf.value)
        elif leaf.dtype.kind == "f":
            leaves.append(rng.uniform(0.2, 1.0, leaf.shape).astype(leaf.dtype)[()])
        else:
            leaves.append(np.ones(leaf.shape, leaf.dtype) if leaf.shape else 2)
    leaves = [float(x) if isinstance(x, np.float64) else x for x in leaves]
    return pytree.unflatten(spec.structure, leaves)


def outcome(path, rng):
    """What becomes of a file: "refused", "replayed", "raised" or "long"."""
    try:
        loaded = tg.load(path, memory_limit=MEMORY, compile=False)
    except (TapegradError, MemoryError):
        return "refused"
    args = arguments(loaded.spec, rng)
    found = "replayed"
    for call in (loaded, loaded.grad, lambda *args: loaded.vjp(*args), lambda *args: loaded.jvp(args, args), repr):
        try:
            call(loaded) if call is repr else call(*args)
        except OF_NUMBERS:
            found = "raised"
    return found


def work(originals, seed, first, count, folder, at, results):
    """Cases from number `first` on, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    check = watch_arenas()
    # What is compiled or loaded is so before anything is interrupted.
    for data in originals:
        path = Path(folder) / f"{first}.tape"
        path.write_bytes(data)
        assert outcome(path, np.random.default_rng(0)) != "refused"
    check()

    signal.signal(signal.SIGALRM, stop)
    total, faults = collections.Counter(), []
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        path = Path(folder) / f"{first}.tape"
        path.write_bytes(damaged(originals[int(rng.integers(len(originals)))], rng))
        at.value = number
        try:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                total[outcome(path, rng)] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            check()
        except TooLong:
            total["long"] += 1
        except BaseException:
            faults.append((number, traceback.format_exc()))
            path.rename(Path(folder) / f"fault{number}.tape")
    results.put((total, faults))


def run(originals, seed, first, count, processes=1, chunk=1000, folder=None):
    """What became of so many files, and the faults: (number of the case, what happened)."""
    folder = folder or tempfile.mkdtemp()
    context = multiprocessing.get_context("fork")
    waiting = collections.deque((at, min(chunk, first + count - at)) for at in range(first, first + count, chunk))
    total, faults, running = collections.Counter(), [], []
    results = context.SimpleQueue()
    while waiting or running:
        while waiting and len(running) < processes:
            begin, n = waiting.popleft()
            at = context.Value("q", -1)
            process = context.Process(target=work, args=(originals, seed, begin, n, folder, at, results))
            process.start()
            running.append([process, begin, n, at, -1, time.monotonic()])
        time.sleep(0.02)
        while not results.empty():
            found, wrong = results.get()
            total += found
            faults += wrong
        for job in list(running):
            process, begin, n, at, seen, since = job
            if at.value != seen:
                job[4:] = at.value, time.monotonic()
            hangs = process.is_alive() and time.monotonic() - since > HANGS
            if hangs:
                process.kill()
                process.join()
            if not process.is_alive():
                process.join()
                running.remove(job)
                if process.exitcode:
                    number = at.value
                    faults.append((number, "hangs" if hangs else f"crashed with {process.exitcode}"))
                    if number + 1 < begin + n:
                        waiting.appendleft((number + 1, begin + n - number - 1))
    while not results.empty():
        found, wrong = results.get()
        total += found
        faults += wrong
    return total, faults


def originals(folder):
    """The files that are damaged."""
    import programs_to_save

    found = []
    for recording, _ in programs_to_save.named().values():
        recording.save(Path(folder) / "original.tape")
        found.append((Path(folder) / "original.tape").read_bytes())
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_load", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first file")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        files = originals(folder)
    kept = tempfile.mkdtemp(prefix="fuzz_load")
    start = time.perf_counter()
    total, faults = run(files, options.seed, options.first, options.count, options.processes, folder=kept)
    print(f"{dict(total)}, {sum(total.values())} files in {time.perf_counter() - start:.0f} s")
    for number, what in faults:
        print(f"\n### file {number} of seed {options.seed}, kept in {kept}:\n{what}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
