"""Rows with one label each: softmax cross-entropy, fused (one pass forward, one back), and the number at the label."""

import numpy as np

from tapegrad.compiled import ROOM, room
from tapegrad.errors import LabelError
from tapegrad.ops.arithmetic import chain
from tapegrad.ops.record import operand_at, params_of_two, result_at
from tapegrad.ops.reduction import logsumexp
from tapegrad.ops.selection import where
from tapegrad.ops.spec import BY_NAME, structured


def labelled_layout(side, k):
    # Rows are dense (n, classes); labels are n whole numbers on the tape; the output is n numbers, one for each row.
    p = params_of_two(k)
    return operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k), side[p], side[p + 1]


def is_label(label, classes):
    return label >= 0 and label < classes and label == np.floor(label)


def normaliser(v, a, classes):
    # The largest logit, and the sum of e^(logit - largest), which neither overflows nor vanishes.
    best = largest(v, a, classes)
    total = 0.0
    for j in range(classes):
        total += np.exp(v[a + j] - best)
    return best, total


def largest(v, a, classes):
    best = v[a]
    for j in range(1, classes):
        best = max(best, v[a + j])
    return best


# Exponentials are computed for as many rows at a time as there is room for: ten classes alone would not fill a vector.
# A row that is longer than that is computed number by number.


def exponentials(v, a, n, classes, e):
    # For n rows of logits, e^(logit - largest).
    for i in range(n):
        best = largest(v, a + i * classes, classes)
        for j in range(i * classes, (i + 1) * classes):
            e[j] = v[a + j] - best
    for j in range(n * classes):
        e[j] = np.exp(e[j])


def sum_of(e, a, n):
    total = 0.0
    for j in range(a, a + n):
        total += e[j]
    return total


def cross_entropy_forward(side, k, v):
    x, labels, out, n, classes = labelled_layout(side, k)
    for i in range(n):
        if not is_label(v[labels + i], classes):
            return False
    e, together = room(v), ROOM // classes
    for i in range(n):
        a = x + i * classes
        if together == 0:
            best, total = normaliser(v, a, classes)
        else:
            if i % together == 0:
                exponentials(v, a, min(together, n - i), classes, e)
            best, total = largest(v, a, classes), sum_of(e, i % together * classes, classes)
        v[out + i] = np.log(total) + (best - v[a + int(v[labels + i])])
    return True


def cross_entropy_reverse(side, k, v, g):
    x, labels, out, n, classes = labelled_layout(side, k)
    e, together = room(v), ROOM // classes
    for i in range(n):
        a, at = x + i * classes, 0
        if together > 0:
            at = i % together * classes
            if at == 0:
                exponentials(v, a, min(together, n - i), classes, e)
        if g[out + i] != 0.0 and is_label(v[labels + i], classes):
            label = int(v[labels + i])
            if together == 0:
                best, total = normaliser(v, a, classes)
            else:
                best, total = largest(v, a, classes), sum_of(e, at, classes)
            # The label's p - 1 is minus the sum of the others: exact where p is close to 1.
            rest = 0.0
            for j in range(classes):
                if j != label:
                    p = (e[at + j] if together > 0 else np.exp(v[a + j] - best)) / total
                    g[a + j] += g[out + i] * p
                    rest += p
            g[a + label] -= g[out + i] * rest


def cross_entropy_tangent(side, k, v, t):
    x, labels, out, n, classes = labelled_layout(side, k)
    for i in range(n):
        if is_label(v[labels + i], classes):
            a, label = x + i * classes, int(v[labels + i])
            best, total = normaliser(v, a, classes)
            t[out + i] = 0.0
            for j in range(classes):
                t[out + i] += (t[a + j] - t[a + label]) * (np.exp(v[a + j] - best) / total)


def probabilities(p, x, labels):
    # The softmax of each row, and an array that is true at the label of each row.
    n, classes = p
    normalised = np.exp(x - logsumexp(x, params=[n, classes, 1, classes, 1, 1, 1]))
    return normalised, labels[:, None] == np.arange(classes)


def bad_label(called):
    # The rule `refusal` of an operation with labels, which the message calls so.
    def refusal(p, x, labels):
        bad = np.flatnonzero(~((labels >= 0) & (labels < p[1]) & (labels == np.floor(labels))))
        return None if not bad.size else LabelError(
            f"{called}: label {float(labels[bad[0]]):.16g} at position {bad[0]}; labels must be whole numbers from 0 "
            f"to {p[1] - 1}"
        )

    return refusal


def cross_entropy_pullback(p, z, gz, x, labels):
    chances, chosen = probabilities(p, x, labels)
    others = where(chosen, 0.0, chances)
    # The label's own p - 1 is minus the sum of the others: exact where p is close to 1.
    return chain(gz[:, None], where(chosen, -np.sum(others, 1, keepdims=True), others)), None


def cross_entropy_pushforward(p, z, operands, tangents):
    (x, labels), (t, _) = operands, tangents
    chances, chosen = probabilities(p, x, labels)
    own = np.sum(where(chosen, t, 0.0), 1, keepdims=True)
    return np.sum((t - own) * chances, 1)


def rows_of_lanes(p, lanes, x, labels):
    # The operands for many inputs at once: each row of each lane is a row.
    n, classes = p
    rows = np.broadcast_to(x if x.ndim == 3 else x[:, :, None], (n, classes, lanes)).transpose(0, 2, 1)
    return rows, np.broadcast_to(labels if labels.ndim == 2 else labels[:, None], (n, lanes))


def cross_entropy_in_lanes(p, lanes, x, labels):
    return cross_entropy(*rows_of_lanes(p, lanes, x, labels), params=[p[0] * lanes, p[1]])


def at_labels_forward(side, k, v):
    x, labels, out, n, classes = labelled_layout(side, k)
    for i in range(n):
        if not is_label(v[labels + i], classes):
            return False
    for i in range(n):
        v[out + i] = v[x + i * classes + int(v[labels + i])]
    return True


def at_labels_reverse(side, k, v, g):
    x, labels, out, n, classes = labelled_layout(side, k)
    for i in range(n):
        if is_label(v[labels + i], classes):
            g[x + i * classes + int(v[labels + i])] += g[out + i]


def at_labels_tangent(side, k, v, t):
    x, labels, out, n, classes = labelled_layout(side, k)
    for i in range(n):
        if is_label(v[labels + i], classes):
            t[out + i] = t[x + i * classes + int(v[labels + i])]


def at_labels_pullback(p, z, gz, x, labels):
    return where(labels[:, None] == np.arange(p[1]), gz[:, None], 0.0), None


def at_labels_links(p, x, labels):
    rows = np.arange(p[0])
    return [(rows, rows * p[1] + labels.astype(np.int64)), None]


def at_labels_in_lanes(p, lanes, x, labels):
    return BY_NAME["at_labels"](*rows_of_lanes(p, lanes, x, labels), params=[p[0] * lanes, p[1]])


def accepts_labels(p):
    return len(p) == 2 and p[0] >= 0 and p[1] > 0


def labelled_views(p):
    return [((p[0], p[1]), (p[1], 1)), ((p[0],), (1,))], (p[0],)


def labelled_note(p):
    return f"{p[0]:,} {'row' if p[0] == 1 else 'rows'} of {p[1]} classes"


cross_entropy = structured("cross_entropy", "z_i = ln(sum_j e^(x_ij)) - x_i,label_i", arity=2,
    accepts=accepts_labels,
    forward=cross_entropy_forward, reverse=cross_entropy_reverse, tangent=cross_entropy_tangent,
    views=labelled_views, depends="nc,n->n",
    pullback=cross_entropy_pullback, batched=cross_entropy_in_lanes, pushforward=cross_entropy_pushforward,
    refusal=bad_label("cross_entropy"), note=labelled_note)

# What `nll_loss` takes of each row. `gather` would say of a label that is no class which index is out of range, and
# cannot say of which label it was made.
at_labels = structured("at_labels", "z_i = x_i,label_i", arity=2, accepts=accepts_labels,
    forward=at_labels_forward, reverse=at_labels_reverse, tangent=at_labels_tangent, views=labelled_views,
    depends=at_labels_links, pullback=at_labels_pullback, batched=at_labels_in_lanes,
    pushforward=lambda p, z, operands, tangents: BY_NAME["at_labels"](tangents[0], operands[1], params=p), moves=1,
    refusal=bad_label("nll_loss"), note=labelled_note, reads=((False, True), False))
