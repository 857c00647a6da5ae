/* Replays a small tape: `read_tape FILE x0 x1 ...` puts the numbers at the inputs of the branch replayed last and prints
 * its results. Written from docs/tape-format.md alone, for little-endian machines; knows a few operations. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char kind[4]; uint32_t number, type, zero; uint64_t at, count; } Section;

static unsigned char *file;
static char *names[1000];

static void fail(const char *why) { fprintf(stderr, "%s\n", why); exit(1); }

static Section *section(const char *kind, uint32_t number)
{
    uint32_t n;
    memcpy(&n, file + 24, 4);
    Section *found = (Section *)(file + 32);
    for (uint32_t i = 0; i < n; i++)
        if (!memcmp(found[i].kind, kind, 4) && found[i].number == number) return found + i;
    return NULL;
}

static void *data(const char *kind, uint32_t number) { return file + section(kind, number)->at; }

static uint32_t crc(const unsigned char *bytes, uint64_t n)
{
    uint32_t c = ~0u;
    for (uint64_t i = 0; i < n; i++) {
        c ^= bytes[i];
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

static double apply(const char *op, double x, double y, double w)
{
    struct { const char *name; double value; } known[] = {
        {"add", x + y}, {"subtract", x - y}, {"multiply", x * y}, {"divide", x / y}, {"negative", -x}, {"sin", sin(x)},
        {"cos", cos(x)}, {"exp", exp(x)}, {"log", log(x)}, {"tanh", tanh(x)}, {"sqrt", sqrt(x)}, {"square", x * x},
        {"greater", x > y}, {"less", x < y}, {"where", x != 0 ? y : w}, {"copy", x}, {"power_constant", pow(x, y)},
        {"chain", x == 0 || y == 0 ? 0 : x * y}, {"maximum", x > y || x != x ? x : y}, {"absolute", fabs(x)}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, op)) return known[i].value;
    fail(op);
    return 0;
}

static void run(const char *op, double *v, uint32_t out, uint32_t n, const int64_t *record)
{
    int64_t arity = record[4], x[3] = {0};
    const int64_t *p = record + 5 + 3 * arity;
    if (!strcmp(op, "sum")) {
        for (int64_t i = 0; i < p[0]; i++)
            for (int64_t m = 0; m < p[2]; m++, out++)
                for (int64_t j = (v[out] = 0); j < p[1]; j++) v[out] += v[record[5] + i * p[3] + j * p[4] + m * p[5]];
        return;
    }
    if (record[0]) fail(op);
    for (uint32_t e = 0; e < n; e++) {
        for (int64_t j = 0, rest = e; j < arity; j++, rest = e) {
            const int64_t *strides = p + 2 + p[0] + j * (1 + p[0]);
            x[j] = record[5 + 3 * j];
            for (int64_t d = p[0] - 1; d >= 0; rest /= p[1 + d], d--) x[j] += rest % p[1 + d] * strides[d];
        }
        v[out + e] = apply(op, v[x[0]], v[x[1]], v[x[2]]);
    }
}

int main(int argc, char **argv)
{
    FILE *stream = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!stream || fseek(stream, 0, SEEK_END)) fail("usage: read_tape FILE x0 x1 ...");
    uint64_t length = (uint64_t)ftell(stream), program = 0;
    rewind(stream);
    file = malloc(length);
    if (!file || length < 32 || fread(file, 1, length, stream) != length || memcmp(file, "\x89TAPE\r\n\x1a\1\0\0\0", 12)
        || ((uint64_t *)file)[2] != length || crc(file + 16, length - 16) != ((uint32_t *)file)[3]) fail("no such file");
    uint64_t n_names = 0;
    char *text = calloc(section("OPER", 0)->count + 1, 1);
    memcpy(text, data("OPER", 0), section("OPER", 0)->count);
    for (char *name = strtok(text, "\n"); name && n_names < 1000; name = strtok(NULL, "\n")) names[n_names++] = name;
    while (((int64_t *)data("PROG", program))[4] != 2) program++;
    int64_t *head = data("PROG", program), *side = data("SIDE", program), *outs = data("OUTS", program);
    uint32_t *row = data("ROWS", program), *end = row + section("ROWS", program)->count, given = 2;
    double *constants = data("CONS", program), *v = calloc((size_t)head[2] + 1, sizeof *v);
    if (head[0] != 8) fail("this reader knows float64 alone");
    for (int64_t leaf = 0; row < end; row += 5, leaf++) {
        uint32_t op = row[0] % 65536, out = row[1];
        if (op == 0) for (uint32_t j = 0; j < row[3]; j++)
            v[out + j] = leaf >= head[1] ? *constants++ : given < (uint32_t)argc ? atof(argv[given++]) : (fail("more"), 0);
        else if (op == 1) { if (v[row[2]] != v[row[3]]) fail("another branch"); }
        else if (row[0] >= 65536) run(names[op], v, out, row[3], side + row[2]);
        else v[out] = apply(names[op], v[row[2]], v[row[3]], v[row[4]]);
    }
    for (int64_t i = 0; i < head[3]; i++, outs += 3 + 2 * outs[2]) printf("%.17g\n", v[outs[1]]);
    return 0;
}
