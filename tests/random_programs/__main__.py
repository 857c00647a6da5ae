"""Run random programs: `python -m tests.random_programs --count 1000 --seed 0`.

Prints each program with a wrong result, and what was refused; ends with 1 if anything was wrong.
"""

import argparse
import collections
import resource
import sys
import time

from .holding import hold
from .writing import write

SLOW = 10.0  # seconds for one program


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.random_programs", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many programs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first program")
    parser.add_argument("--show", action="store_true", help="print every program")
    options = parser.parse_args()
    total, refused = collections.Counter(), collections.Counter()
    start = time.perf_counter()
    for number in range(options.first, options.first + options.count):
        program = write(options.seed, number)
        if options.show:
            print(program.text, program.points, program.dtype)
        begun = time.perf_counter()
        held = hold(program, number)
        if time.perf_counter() - begun > SLOW:
            print(f"\n### {program.name} took {time.perf_counter() - begun:.1f} s\n{program.text}", flush=True)
        total.update(programs=1, compared=held.compared, kinks=held.kinks, wrong=bool(held.wrong))
        for what in held.refused:
            refused[what.split(": ", 1)[1][:150]] += 1
        if held.wrong:
            print(f"\n### {program.name}, {program.dtype.__name__}\n{program.text}", *held.wrong, sep="\n", flush=True)
        if total["programs"] % 1000 == 0 or number == options.first + options.count - 1:
            spent = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{dict(total)}, {spent:.0f} s, {peak} MB", flush=True)
    for what, times in refused.most_common(20):
        print(f"refused {times} times: {what}")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
