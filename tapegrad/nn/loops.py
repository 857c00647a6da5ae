"""Several batches of training in one compiled call, with the GIL released; `train` is the entry point.

The sweep and the optimiser's kernel are called by address. If they were called as functions, they would be compiled
once more as a part of this loop, for every user and every optimiser, which takes seconds instead of a fraction of one.
"""

from __future__ import annotations

from tapegrad.compiled import compiled
from tapegrad.compiled.frames import call_frame, float_bits
from tapegrad.optim.loops import clip_values, global_norm, scale_to_norm

# Positions in the plan, which has what the loop needs to know of a recorded step: sizes, and places in its arena (the
# parameters come first, from place 0 on).
N_PARAMS, BATCH, INPUTS, TARGETS, LOSS, LOGITS, CLASSES, LEARN = range(8)
# Positions in the counts of one call: the batch to begin with, and how many updates were done before the call.
START, DONE = range(2)
# Limits of the gradient; 0 for none.
CLIP_NORM, CLIP_VALUE = range(2)


@compiled(
    sweep="int64", sweep_words="int64[:]", update="int64", update_words="int64[:]", values="real[:]",
    adjoints="real[:]", plan="int64[:]", moves="int64[:, :]", counts="int64[:]", rates="float64[:]",
    limits="float64[:]", xs="real[:, :]", ys="real[:, :]", order="int64[:]", sums="float64[:]",
)  # fmt: skip
def train(
    sweep, sweep_words, update, update_words, values, adjoints, plan, moves, counts, rates, limits, xs, ys, order, sums
):
    # Trains on the batches from number counts[START] on of the samples in `order`; there are as many batches as rates.
    # Adds each loss times the batch size to sums[0], and the number of right answers to sums[1]. Returns the number of
    # the instruction that failed in a sweep, with the number of the batch in counts[START]; -1 if none failed.
    g = adjoints[: plan[N_PARAMS]]
    batch, loss = plan[BATCH], plan[LOSS]
    for step in range(counts[START], rates.shape[0]):
        counts[START] = step
        copy_rows(xs, order, step * batch, batch, values, plan[INPUTS])
        copy_rows(ys, order, step * batch, batch, values, plan[TARGETS])
        failed = call_frame(sweep, sweep_words)
        if failed >= 0:
            return failed
        sums[0] += values[loss] * batch
        sums[1] += right_answers(plan, values)
        # What the step carries: (from, to, how many numbers).
        for m in range(moves.shape[0]):
            for j in range(moves[m, 2]):
                values[moves[m, 1] + j] = values[moves[m, 0] + j]
        if plan[LEARN]:
            if limits[CLIP_VALUE] > 0.0:
                clip_values(g, limits[CLIP_VALUE])
            if limits[CLIP_NORM] > 0.0:
                scale_to_norm(g, global_norm(g), limits[CLIP_NORM])
            # The last arguments of an update: the rate, and its number from 1 on.
            update_words[update_words.shape[0] - 2] = float_bits(rates[step])
            update_words[update_words.shape[0] - 1] = counts[DONE] + step + 1
            call_frame(update, update_words)
    counts[START] = rates.shape[0]
    return -1


@compiled(nothing="int64")
def swept(nothing):
    """In place of a sweep that was carried out before."""
    return -1


def copy_rows(table, order, first, count, v, to):
    # Loops, because assigning one slice to another takes Numba seconds to compile; over a slice each, because in
    # two whole arrays Numba asks of every position whether it counts from the end (measured: 39 µs against 17).
    n = table.shape[1]
    for i in range(count):
        row, of = v[to + i * n : to + (i + 1) * n], table[order[first + i]]
        for j in range(n):
            row[j] = of[j]


def right_answers(plan, v):
    right = 0
    for i in range(plan[BATCH] if plan[CLASSES] else 0):
        a = plan[LOGITS] + i * plan[CLASSES]
        best = 0
        for j in range(1, plan[CLASSES]):
            if v[a + j] > v[a + best]:
                best = j
        # If the best logit is NaN, there is no answer.
        right += best == v[plan[TARGETS] + i] and v[a + best] == v[a + best]
    return right
