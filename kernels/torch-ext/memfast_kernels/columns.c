/* Sums over float32 rows in one pass, for cpu_sums.py; used where a compiler was at hand when the
   package was installed. Plain C, called through ctypes. Segments and the halves of their rows are
   shared out among OpenMP threads (torch's own: nothing is linked here), whose number changes no bit.
   Sums are float64, in which the square of a float32 is exact. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { ROWS_AT_ONCE = 8, NEURONS_AT_ONCE = 128 };

/* Floats of one sign sort like their bits, NaN above infinity. */
ALWAYS_INLINE int32_t magnitude(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & INT32_MAX;
}

ALWAYS_INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

ALWAYS_INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

ALWAYS_INLINE void multiply(const float *restrict values, const float *restrict factors, float *restrict products,
                            int64_t neurons) {
    for (int64_t neuron = 0; neuron < neurons; neuron++)
        products[neuron] = values[neuron] * factors[neuron];
}

ALWAYS_INLINE void add_rows(const float *restrict values, const float *restrict weights,
                            int64_t rows, int64_t stride, int64_t neurons,
                            double *restrict sum, double *restrict squares,
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

ALWAYS_INLINE void add_strips(const float *values, const float *weights, int64_t stride,
                              int64_t rows, int64_t neurons,
                              double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
    for (int64_t first = 0; first < neurons; first += NEURONS_AT_ONCE) {
        int64_t width = neurons - first < NEURONS_AT_ONCE ? neurons - first : NEURONS_AT_ONCE, row = 0;
        for (; row + ROWS_AT_ONCE <= rows; row += ROWS_AT_ONCE)
            add_rows(values + row * stride + first, weights ? weights + row : 0, ROWS_AT_ONCE, stride, width,
                     sum + first, squares + first, peak + first, nonzero + first);
        for (; row < rows; row++)
            add_rows(values + row * stride + first, weights ? weights + row : 0, 1, stride, width,
                     sum + first, squares + first, peak + first, nonzero + first);
    }
}

/* Counts values [rows, neurons], or each row times its weight, or their products with factors, which
   are stored first: whole rows one after another, since the memory that they go to is often touched
   for the first time. */
FOR_EVERY_PROCESSOR
static void add_part(const float *values, const float *weights, int64_t stride, const float *factors,
                     float *products, int64_t rows, int64_t neurons,
                     double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
    if (factors) {
        for (int64_t row = 0; row < rows; row++)
            multiply(values + row * stride, factors + row * neurons, products + row * neurons, neurons);
        add_strips(products, 0, neurons, rows, neurons, sum, squares, peak, nonzero);
    } else if (weights)
        add_strips(values, weights, stride, rows, neurons, sum, squares, peak, nonzero);
    else
        add_strips(values, 0, stride, rows, neurons, sum, squares, peak, nonzero);
}

/* Adds values [segments, rows, neurons], whose rows are `stride` apart, to the state; each part of it
   is [segments, neurons] for every one of `halves` (1 or 2) of a segment's rows, `next_half` apart.
   With weights [segments, rows], each row is multiplied by its own; with factors [segments, rows,
   neurons], it is products = values * factors that are counted, and stored; never both. Rows are
   halved because torch's own threads split them so: each finds what it wrote in its own cache. */
void add_block(const float *values, const float *weights, int64_t stride, const float *factors, float *products,
               int64_t segments, int64_t rows, int64_t neurons, int64_t halves, int64_t next_half,
               double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
#pragma omp parallel for
    for (int64_t part = 0; part < segments * halves; part++) {
        int64_t segment = part / halves, half = part % halves;
        int64_t middle = halves > 1 ? rows / 2 / ROWS_AT_ONCE * ROWS_AT_ONCE : rows;
        int64_t start = half ? middle : 0, stop = half ? rows : middle;
        int64_t row = segment * rows + start, place = half * next_half + segment * neurons;
        add_part(values + row * stride, weights ? weights + row : 0, stride, factors ? factors + row * neurons : 0,
                 factors ? products + row * neurons : 0, stop - start, neurons,
                 sum + place, squares + place, peak + place, nonzero + place);
    }
}
