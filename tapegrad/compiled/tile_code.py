"""The functions of `tiles` as machine code. Imported only when something is compiled."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from tapegrad.compiled.tiles import BITS, ROWS, VECTORS, VECTORS_OF_ONE

_NO_MEMORY = "tapegrad: there is no memory left for what a convolution rearranges (weights and parts of images)"
_I64, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()


def _number(n):
    return ir.Constant(_I64, n)


def _of_c(builder, name, result, *arguments):
    # A function of C's library.
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _text(context, builder, text):
    return builder.bitcast(context.insert_const_string(builder.module, text), _BYTES)


def _borrowed(kind, context, builder, n):
    array = context.make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    memory = builder.call(_of_c(builder, "malloc", _BYTES, _I64), [builder.mul(n, _number(size))])
    nothing = builder.icmp_unsigned("==", memory, _BYTES(None))
    with builder.if_then(builder.and_(nothing, builder.icmp_signed(">", n, _number(0))), likely=False):
        # A kernel has no way to raise anything. It ends the process and says why, and writes nowhere.
        builder.call(_of_c(builder, "Py_FatalError", ir.VoidType(), _BYTES), [_text(context, builder, _NO_MEMORY)])
    data = builder.bitcast(memory, array.data.type)
    populate_array(array, data=data, shape=(n,), strides=(_number(size),), itemsize=_number(size), meminfo=None)
    return array._getvalue()


@intrinsic
def borrow(typingctx, v, n):
    """Memory for n numbers of an array's dtype."""

    kind = types.Array(v.dtype, 1, "C")

    def generate(context, builder, signature, args):
        return _borrowed(kind, context, builder, args[1])

    return kind(v, types.int64), generate


@intrinsic
def borrow_whole(typingctx, n):
    """Memory for n whole numbers."""

    kind = types.Array(types.int64, 1, "C")

    def generate(context, builder, signature, args):
        return _borrowed(kind, context, builder, args[0])

    return kind(types.int64), generate


@intrinsic
def give_back(typingctx, array):
    """Give memory back."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.call(_of_c(builder, "free", ir.VoidType(), _BYTES), [builder.bitcast(data, _BYTES)])
        return context.get_dummy_value()

    return types.void(array), generate


@intrinsic
def copy_row(typingctx, to, o, v, a, n):
    """Copy numbers by C's function, which is fast for a few as well."""

    def generate(context, builder, signature, args):
        to, o, v, a, n = args
        kinds = signature.args
        size = _number(context.get_abi_sizeof(context.get_data_type(kinds[0].dtype)))
        places = [builder.gep(_data(context, builder, kind, x), [i]) for kind, x, i in
                  ((kinds[0], to, o), (kinds[2], v, a))]  # fmt: skip
        there, here = (builder.bitcast(place, _BYTES) for place in places)
        builder.call(_of_c(builder, "memcpy", _BYTES, _BYTES, _BYTES, _I64), [there, here, builder.mul(n, size)])
        return context.get_dummy_value()

    return types.void(to, types.int64, v, types.int64, types.int64), generate


class _Vectors:
    """Writes operations on registers full of numbers."""

    def __init__(self, builder, real):
        self.builder, self.real = builder, real
        bits = 64 if isinstance(real, ir.DoubleType) else 32
        self.lanes = BITS // bits
        self.kind = ir.VectorType(real, self.lanes)
        self.bytes = bits // 8
        self.suffix = f"v{self.lanes}f{bits}"

    def load(self, pointer):
        wide = self.builder.bitcast(pointer, self.kind.as_pointer())
        return self.builder.load(wide, align=self.bytes)

    def store(self, value, pointer):
        wide = self.builder.bitcast(pointer, self.kind.as_pointer())
        self.builder.store(value, wide, align=self.bytes)

    def everywhere(self, number):
        # One number in all lanes.
        undefined = ir.Constant(self.kind, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        places = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, places)

    def add_product(self, x, y, total):
        # Rounded once where the processor does so, else twice.
        kind = ir.FunctionType(self.kind, [self.kind] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fmuladd.{self.suffix}")
        return self.builder.call(function, [x, y, total])

    def total(self, x):
        # The sum of all lanes, in an order of the processor's choice.
        kind = ir.FunctionType(self.real, [self.real, self.kind])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.vector.reduce.fadd.{self.suffix}")
        return self.builder.call(function, [ir.Constant(self.real, 0.0), x], fastmath=("reassoc",))

    def zeros(self, count):
        # Variables that begin as zero. LLVM keeps them in registers.
        zero = ir.Constant(self.kind, [0.0] * self.lanes)
        made = [cgutils.alloca_once(self.builder, self.kind) for _ in range(count)]
        for variable in made:
            self.builder.store(zero, variable)
        return made


def _each_size(builder, rows, count, write, most_of_one=VECTORS):
    # Call `write` to write the code for each number of rows and columns of a tile, and choose between them. A tile of
    # one row may have more columns.
    after = builder.append_basic_block("tile.done")
    switch = builder.switch(builder.add(builder.mul(rows, _number(16)), count), after)
    m = ROWS
    while m:
        for n in range(1, (most_of_one if m == 1 else VECTORS) + 1):
            block = builder.append_basic_block(f"tile.{m}.{n}")
            switch.add_case(_number(16 * m + n), block)
            builder.position_at_end(block)
            write(m, n)
            builder.branch(after)
        m //= 2
    builder.position_at_end(after)


def _data(context, builder, kind, array):
    return context.make_array(kind)(context, builder, array).data


@intrinsic
def weighted_rows(typingctx, w, wo, x, xo, offsets, at, count, rows, vectors, t, to, pitch):
    """Sums of rows of numbers with weights; see `tiles`."""

    whole = types.int64
    signature = types.void(w, whole, x, whole, offsets, whole, whole, whole, whole, t, whole, whole)

    def generate(context, builder, signature, args):
        w, wo, x, xo, offsets, at, count, rows, vectors, t, to, pitch = args
        kinds = signature.args
        v = _Vectors(builder, context.get_data_type(kinds[2].dtype))
        weights = builder.gep(_data(context, builder, kinds[0], w), [wo])
        numbers = builder.gep(_data(context, builder, kinds[2], x), [xo])
        places = builder.gep(_data(context, builder, kinds[4], offsets), [at])
        results = builder.gep(_data(context, builder, kinds[9], t), [to])

        def write(m, n):
            sums = v.zeros(m * n)
            with cgutils.for_range(builder, count, intp=_I64) as loop:
                start = builder.gep(numbers, [builder.load(builder.gep(places, [loop.index]))])
                row = builder.gep(weights, [builder.mul(loop.index, _number(m))])
                found = [v.load(builder.gep(start, [_number(j * v.lanes)])) for j in range(n)]
                for i in range(m):
                    weight = v.everywhere(builder.load(builder.gep(row, [_number(i)])))
                    for j in range(n):
                        own = sums[i * n + j]
                        builder.store(v.add_product(weight, found[j], builder.load(own)), own)
            for i in range(m):
                line = builder.gep(results, [builder.mul(pitch, _number(i))])
                for j in range(n):
                    v.store(builder.load(sums[i * n + j]), builder.gep(line, [_number(j * v.lanes)]))

        _each_size(builder, rows, vectors, write, VECTORS_OF_ONE)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def products_of_rows(
    typingctx, y, yo, pitch, x, xo, offsets, at, many, images, y_step, x_step, rows, count, t
):  # fmt: skip
    """Sums of products of rows of numbers; see `tiles`."""

    whole = types.int64
    signature = types.void(y, whole, whole, x, whole, offsets, whole, whole, whole, whole, whole, whole, whole, t)

    def generate(context, builder, signature, args):
        y, yo, pitch, x, xo, offsets, at, many, images, y_step, x_step, rows, count, t = args
        kinds = signature.args
        v = _Vectors(builder, context.get_data_type(kinds[3].dtype))
        lines = builder.gep(_data(context, builder, kinds[0], y), [yo])
        numbers = builder.gep(_data(context, builder, kinds[3], x), [xo])
        places = builder.gep(_data(context, builder, kinds[5], offsets), [at])
        results = _data(context, builder, kinds[13], t)

        def write(m, n):
            sums = v.zeros(m * n)
            starts = [builder.gep(numbers, [builder.load(builder.gep(places, [_number(j)]))]) for j in range(n)]
            with cgutils.for_range(builder, images, intp=_I64) as image:
                own_lines = builder.gep(lines, [builder.mul(image.index, y_step)])
                ups = [builder.gep(own_lines, [builder.mul(pitch, _number(i))]) for i in range(m)]
                step = builder.mul(image.index, x_step)
                others = [builder.gep(start, [step]) for start in starts]
                with cgutils.for_range(builder, many, intp=_I64) as loop:
                    along = builder.mul(loop.index, _number(v.lanes))
                    found = [v.load(builder.gep(other, [along])) for other in others]
                    for i in range(m):
                        line = v.load(builder.gep(ups[i], [along]))
                        for j in range(n):
                            own = sums[i * n + j]
                            builder.store(v.add_product(line, found[j], builder.load(own)), own)
            for i in range(m):
                for j in range(n):
                    total = v.total(builder.load(sums[i * n + j]))
                    builder.store(total, builder.gep(results, [_number(i * n + j)]))

        _each_size(builder, rows, count, write)
        return context.get_dummy_value()

    return signature, generate
