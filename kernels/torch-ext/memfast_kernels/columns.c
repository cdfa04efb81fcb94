/* Sums over float32 rows in one pass, for cpu_sums.py; used where a compiler was at hand when the
   package was installed. Plain C, called through ctypes. Columns are shared out among OpenMP threads
   (torch's own: nothing is linked here), so that their number changes no bit. Sums are float64, in
   which the square of a float32 is exact. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { ROWS_AT_ONCE = 8, NEURONS_AT_ONCE = 128, HALVES = 2 };

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

ALWAYS_INLINE void add_rows(const float *restrict values, int64_t rows, int64_t stride, int64_t neurons,
                            double *restrict sum, double *restrict squares,
                            int32_t *restrict peak, int64_t *restrict nonzero) {
    for (int64_t neuron = 0; neuron < neurons; neuron++) {
        double total = 0, total_squares = 0;
        int32_t highest = 0, present = 0;
        for (int64_t row = 0; row < rows; row++) {
            float value = values[row * stride + neuron];
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

/* Counts values, or their products with factors, which are stored while they are in cache. */
FOR_EVERY_PROCESSOR
static void add_strip(const float *values, int64_t stride, const float *factors, float *products,
                      int64_t row_neurons, int64_t rows, int64_t neurons,
                      double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
    for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
        const float *counted = values + row * stride;
        int64_t counted_stride = stride, height = rows - row < ROWS_AT_ONCE ? rows - row : ROWS_AT_ONCE;
        if (factors) {
            for (int64_t below = row; below < row + height; below++)
                multiply(values + below * stride, factors + below * row_neurons, products + below * row_neurons,
                         neurons);
            counted = products + row * row_neurons;
            counted_stride = row_neurons;
        }
        if (height == ROWS_AT_ONCE)
            add_rows(counted, ROWS_AT_ONCE, counted_stride, neurons, sum, squares, peak, nonzero);
        else
            for (int64_t below = 0; below < height; below++)
                add_rows(counted + below * counted_stride, 1, counted_stride, neurons, sum, squares, peak, nonzero);
    }
}

/* Adds values [segments, rows, neurons], whose rows are `stride` apart, to the state; each part of it
   is [segments, neurons] for either half of a segment's rows, `next_half` apart. With factors
   [segments, rows, neurons], it is products = values * factors that are counted, and stored. The rows
   are halved because torch's own threads split them so: each finds what it wrote in its own cache. */
void add_block(const float *values, int64_t stride, const float *factors, float *products,
               int64_t segments, int64_t rows, int64_t neurons, int64_t next_half,
               double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
    int64_t strips = (neurons + NEURONS_AT_ONCE - 1) / NEURONS_AT_ONCE;
#pragma omp parallel for
    for (int64_t piece = 0; piece < segments * HALVES * strips; piece++) {
        int64_t segment = piece / (HALVES * strips), half = piece / strips % HALVES;
        int64_t first = piece % strips * NEURONS_AT_ONCE;
        int64_t width = neurons - first < NEURONS_AT_ONCE ? neurons - first : NEURONS_AT_ONCE;
        int64_t start = half * rows / HALVES, stop = (half + 1) * rows / HALVES;
        int64_t row = segment * rows + start, place = half * next_half + segment * neurons + first;
        int64_t product = row * neurons + first;
        add_strip(values + row * stride + first, stride, factors ? factors + product : 0,
                  factors ? products + product : 0, neurons, stop - start, width,
                  sum + place, squares + place, peak + place, nonzero + place);
    }
}
