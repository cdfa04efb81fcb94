/* Sums over float32 rows in one pass, for cpu_sums.py; used where a compiler was at hand when the
   package was installed. Plain C, called through ctypes. The work is shared out among OpenMP threads
   (torch's own: nothing is linked here), whose number changes no bit. Sums are float64, in which the
   square of a float32 is exact. */

#ifdef __linux__
#define _DEFAULT_SOURCE
#include <sys/mman.h>
#include <unistd.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#define THREADS omp_get_max_threads()
#else
#define THREADS 1
#endif
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { ROWS_AT_ONCE = 8, NEURONS_AT_ONCE = 16 }; /* a tile: one vector of AVX-512 wide */

/* Sums of every neuron of every segment, [halves, segments, neurons]: `halves` (1 or 2) of a segment's
   rows are summed apart, `next_half` elements from each other. */
struct state {
    int64_t halves, next_half;
    double *sum, *squares;
    int32_t *peak;
    int64_t *nonzero;
};

/* Floats of one sign sort like their bits, NaN above infinity. */
ALWAYS_INLINE int32_t magnitude(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & INT32_MAX;
}

ALWAYS_INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

ALWAYS_INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

/* Rows of values that lie `stride` apart; with weights, one for each row; with factors, one for each
   value, and room for the products, both of whose rows lie `pitch` apart. */
struct rows {
    const float *values, *weights, *factors;
    float *products;
    int64_t stride, pitch;
};

ALWAYS_INLINE struct rows from(struct rows all, int64_t row, int64_t neuron) {
    all.values += row * all.stride + neuron;
    if (all.weights)
        all.weights += row;
    if (all.factors) {
        all.factors += row * all.pitch + neuron;
        all.products += row * all.pitch + neuron;
    }
    return all;
}

ALWAYS_INLINE void multiply(const float *restrict values, int64_t stride, const float *restrict factors,
                            float *restrict products, int64_t pitch, int64_t rows, int64_t neurons) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t neuron = 0; neuron < neurons; neuron++)
            products[row * pitch + neuron] = values[row * stride + neuron] * factors[row * pitch + neuron];
}

ALWAYS_INLINE void count(const float *restrict values, int64_t stride, const float *restrict weights,
                         int64_t rows, int64_t neurons, double *restrict sum, double *restrict squares,
                         int32_t *restrict peak, int64_t *restrict nonzero) {
    for (int64_t neuron = 0; neuron < neurons; neuron++) {
        double total = 0, total_squares = 0;
        int32_t highest = 0, present = 0;
        for (int64_t row = 0; row < rows; row++) {
            float value = weights ? values[row * stride + neuron] * weights[row] : values[row * stride + neuron];
            total += (double)value;
            total_squares += (double)value * value;
            highest = larger(highest, magnitude(value));
            present += smaller(magnitude(value), 1);
        }
        sum[neuron] += total;
        squares[neuron] += total_squares;
        peak[neuron] = larger(peak[neuron], highest);
        nonzero[neuron] += present;
    }
}

ALWAYS_INLINE void add_tile(const struct state *state, int64_t place, struct rows tile, int64_t rows, int64_t neurons) {
    if (tile.factors) {
        multiply(tile.values, tile.stride, tile.factors, tile.products, tile.pitch, rows, neurons);
        tile.values = tile.products;
        tile.stride = tile.pitch;
    }
    count(tile.values, tile.stride, tile.weights, rows, neurons,
          state->sum + place, state->squares + place, state->peak + place, state->nonzero + place);
}

ALWAYS_INLINE void add_rows(const struct state *state, int64_t place, struct rows all, int64_t rows, int64_t neurons) {
    int64_t neuron = 0;
    for (; neuron + NEURONS_AT_ONCE <= neurons; neuron += NEURONS_AT_ONCE)
        add_tile(state, place + neuron, from(all, 0, neuron), rows, NEURONS_AT_ONCE);
    add_tile(state, place + neuron, from(all, 0, neuron), rows, neurons - neuron);
}

/* Tile by tile, so that a product is counted from the nearest cache while the next values arrive. */
ALWAYS_INLINE void add_all(const struct state *state, int64_t place, struct rows all, int64_t rows, int64_t neurons) {
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= rows; row += ROWS_AT_ONCE)
        add_rows(state, place, from(all, row, 0), ROWS_AT_ONCE, neurons);
    for (; row < rows; row++)
        add_rows(state, place, from(all, row, 0), 1, neurons);
}

FOR_EVERY_PROCESSOR
static void add(const struct state *state, int64_t place, struct rows all, int64_t rows, int64_t neurons) {
    struct rows values = {all.values, 0, 0, 0, all.stride, 0}, weighted = values, products = all;
    weighted.weights = all.weights;
    products.weights = 0;
    if (!state)
        multiply(all.values, all.stride, all.factors, all.products, all.pitch, rows, neurons);
    else if (all.factors)
        add_all(state, place, products, rows, neurons);
    else if (all.weights)
        add_all(state, place, weighted, rows, neurons);
    else
        add_all(state, place, values, rows, neurons);
}

/* Where the piece that ends the first `done` of `pieces` ends, in whole tiles. */
ALWAYS_INLINE int64_t border(int64_t all, int64_t done, int64_t pieces, int64_t at_once) {
    return done < pieces ? all * done / pieces / at_once * at_once : all;
}

/* Walks over values [segments, rows, neurons], whose rows lie `stride` apart: with factors [segments,
   rows, neurons] it writes products = values * factors and goes on with those; with weights [segments,
   rows] each row is multiplied by its own (never both); with a state it adds them to as many segments
   of it from the `first` on. Rows are cut as torch's own threads cut them, so that each finds what it
   wrote in its own cache; where that gives too few parts, neurons are cut as well. */
void walk(const struct state *state, int64_t first, int64_t segments, int64_t rows, int64_t neurons, int64_t stride,
          const float *values, const float *weights, const float *factors, float *products) {
    const struct rows all = {values, weights, factors, products, stride, neurons};
    int64_t threads = THREADS, heights = state ? state->halves : threads, parts = segments * heights;
    int64_t widths = (threads + parts - 1) / parts;
#pragma omp parallel for
    for (int64_t part = 0; part < parts * widths; part++) {
        int64_t across = part % widths, down = part / widths % heights, segment = part / widths / heights;
        int64_t row = border(rows, down, heights, ROWS_AT_ONCE);
        int64_t neuron = border(neurons, across, widths, NEURONS_AT_ONCE);
        int64_t place = state ? down * state->next_half + (first + segment) * neurons + neuron : 0;
        add(state, place, from(all, segment * rows + row, neuron),
            border(rows, down + 1, heights, ROWS_AT_ONCE) - row,
            border(neurons, across + 1, widths, NEURONS_AT_ONCE) - neuron);
    }
}

/* Writes the moments of the state, of which every segment has seen `rows` rows; returns how many
   columns have an m2 below the share `cancelled` of their squares. */
FOR_EVERY_PROCESSOR
int64_t finish(const struct state *state, int64_t rows, double cancelled, double *restrict mean,
               double *restrict m2, int32_t *restrict peak, int64_t *restrict nonzero) {
    int64_t columns = state->next_half, found = 0;
    int halved = state->halves > 1;
    for (int64_t here = 0; here < columns; here++) {
        int64_t there = halved ? columns + here : here;
        double sum = state->sum[here] + (halved ? state->sum[there] : 0);
        double squares = state->squares[here] + (halved ? state->squares[there] : 0);
        mean[here] = sum / (double)(rows > 1 ? rows : 1);
        m2[here] = squares - sum * mean[here];
        peak[here] = larger(state->peak[here], state->peak[there]);
        nonzero[here] = state->nonzero[here] + (halved ? state->nonzero[there] : 0);
        found += m2[here] < cancelled * squares;
    }
    return found;
}

/* Memory that was never touched is mapped 2 MiB at a time from here on, where the system can. */
void prefer_huge_pages(char *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)memory + page - 1) / page * page;
    uintptr_t last = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (first < last)
        madvise((void *)first, last - first, MADV_HUGEPAGE);
#endif
}
