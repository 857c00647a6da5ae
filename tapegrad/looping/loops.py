"""The compiled loop that takes one step after the other: numbers copied in, the body's program called, numbers out."""

from tapegrad.compiled import compiled, compiled_in, read, write
from tapegrad.compiled.frames import call_frame

# What the columns of a table say of one array: its place in the arena of the body, how many numbers it has, and where
# in the data they stand for step 0, and how much further for each step after that.
PLACE, SIZE, BASE, STRIDE = range(4)
# Positions in the plan: the step to begin with, and on failure that which failed; how many steps there are, and by how
# much the number of a step differs from that of the one before; the place of the number of the step, or -1, and what
# is added to it; whether the program is machine code.
STEP, COUNT, BY, INDEX, START, NATIVE = range(6)


@compiled_in("tapegrad.looping.native_call")
def call_program(address: int, words: object) -> int:
    """Call a compiled program, of which there is none where nothing is compiled."""
    raise NotImplementedError


@compiled(
    address="int64", words="int64[:]", plan="int64[:]", before="int64[:, :]", kept="int64[:, :]", after="int64[:, :]",
    sums="int64[:, :]", carries="int64[:, :]", values="real[:]", data="real[:]", stage="real[:]",
)  # fmt: skip
def rounds(address, words, plan, before, kept, after, sums, carries, values, data, stage):
    # Steps through a body. `before` is copied from the data to the arena, `kept` from the arena to the data, both
    # before the program is called, `after` from the arena to the data when it was; `sums` are added up in the data.
    # Each row of `carries` has a place that is read after a step, how many numbers, the place for the next step, and a
    # position in the stage, where they wait: a body may exchange two arrays. Returns the instruction that failed, or
    # -1.
    t = plan[STEP]
    for _ in range(plan[COUNT]):
        for j in range(before.shape[0]):
            a, o = before[j, BASE] + t * before[j, STRIDE], before[j, PLACE]
            for i in range(before[j, SIZE]):
                write(values, o + i, read(data, a + i))
        if plan[INDEX] >= 0:
            write(values, plan[INDEX], plan[START] + t)
        for j in range(kept.shape[0]):
            a, o = kept[j, PLACE], kept[j, BASE] + t * kept[j, STRIDE]
            for i in range(kept[j, SIZE]):
                write(data, o + i, read(values, a + i))
        failed = call_program(address, words) if plan[NATIVE] else call_frame(address, words)
        if failed >= 0:
            plan[STEP] = t
            return failed
        for j in range(after.shape[0]):
            a, o = after[j, PLACE], after[j, BASE] + t * after[j, STRIDE]
            for i in range(after[j, SIZE]):
                write(data, o + i, read(values, a + i))
        for j in range(sums.shape[0]):
            a, o = sums[j, PLACE], sums[j, BASE]
            for i in range(sums[j, SIZE]):
                write(data, o + i, read(data, o + i) + read(values, a + i))
        for j in range(carries.shape[0]):
            a, o = carries[j, 0], carries[j, 3]
            for i in range(carries[j, 1]):
                write(stage, o + i, read(values, a + i))
        for j in range(carries.shape[0]):
            a, o = carries[j, 3], carries[j, 2]
            for i in range(carries[j, 1]):
                write(values, o + i, read(stage, a + i))
        t += plan[BY]
    plan[STEP] = t
    return -1
