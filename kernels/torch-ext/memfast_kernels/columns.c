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

enum { ROWS_AT_ONCE = 8, NEURONS_AT_ONCE = 128 };

/* Floats of one sign sort like their bits, NaN above infinity. */
static inline int32_t magnitude(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & INT32_MAX;
}

static inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

static inline void add_rows(const float *restrict values, int64_t rows, int64_t stride, int64_t neurons,
                            double *restrict sum, double *restrict squares,
                            int32_t *restrict peak, int64_t *restrict nonzero) {
    for (int64_t neuron = 0; neuron < neurons; neuron++) {
        double total = 0, total_squares = 0;
        int32_t highest = 0, zeros = 0;
        for (int64_t row = 0; row < rows; row++) {
            float value = values[row * stride + neuron];
            total += (double)value;
            total_squares += (double)value * value;
            highest = larger(highest, magnitude(value));
            zeros += magnitude(value) == 0;
        }
        sum[neuron] += total;
        squares[neuron] += total_squares;
        peak[neuron] = larger(peak[neuron], highest);
        nonzero[neuron] += rows - zeros;
    }
}

FOR_EVERY_PROCESSOR
static void add_strip(const float *values, int64_t rows, int64_t stride, int64_t neurons,
                      double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= rows; row += ROWS_AT_ONCE)
        add_rows(values + row * stride, ROWS_AT_ONCE, stride, neurons, sum, squares, peak, nonzero);
    for (; row < rows; row++)
        add_rows(values + row * stride, 1, stride, neurons, sum, squares, peak, nonzero);
}

/* Adds values [segments, rows, neurons] to the state, each part [segments, neurons]. */
void add_block(const float *values, int64_t segments, int64_t rows, int64_t neurons,
               double *sum, double *squares, int32_t *peak, int64_t *nonzero) {
    int64_t strips = (neurons + NEURONS_AT_ONCE - 1) / NEURONS_AT_ONCE;
#pragma omp parallel for
    for (int64_t piece = 0; piece < segments * strips; piece++) {
        int64_t segment = piece / strips, first = piece % strips * NEURONS_AT_ONCE;
        int64_t width = neurons - first < NEURONS_AT_ONCE ? neurons - first : NEURONS_AT_ONCE;
        int64_t place = segment * neurons + first;
        add_strip(values + segment * rows * neurons + first, rows, neurons, width,
                  sum + place, squares + place, peak + place, nonzero + place);
    }
}
