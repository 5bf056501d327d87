#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

/* glibc has vector versions of these, within 4 units in the last place; gcc takes them where it is told so. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#if __GLIBC_PREREQ(2, 35)
#define VECTORISED(name) \
    __attribute__((simd("notinbranch"))) float name##f(float); \
    __attribute__((simd("notinbranch"))) double name(double);
VECTORISED(exp)
VECTORISED(expm1)
VECTORISED(log)
VECTORISED(log1p)
VECTORISED(log2)
VECTORISED(sin)
VECTORISED(cos)
VECTORISED(tan)
VECTORISED(atan)
VECTORISED(tanh)
VECTORISED(erf)
#endif
#endif

/* Derivative of lgamma: recurrence up to 6, then the asymptotic series; by reflection where negative. */
INLINE double digamma(double x) {
    if (x == 0) return signbit(x) ? INFINITY : -INFINITY;
    double reflected = 0;
    if (x < 0) {
        if (x == floor(x)) return NAN;
        const double pi = 3.14159265358979323846;
        reflected = -pi / tan(pi * (x - floor(x)));
        x = 1 - x;
    }
    for (; x < 10; x++) reflected -= 1 / x;
    const double y = 1 / (x * x);
    const double series =
        y * (1. / 12 - y * (1. / 120 - y * (1. / 252 - y * (1. / 240 - y * (1. / 132 - y * (691. / 32760 - y / 12))))));
    return reflected + log(x) - 0.5 / x - series;
}

INLINE float digammaf(float x) {
    return (float)digamma(x);
}

typedef float vector_float __attribute__((vector_size(32)));
typedef double vector_double __attribute__((vector_size(32)));

/* The sums over the lanes of `rows` vectors, at most four. */
#define ADD_LANES(T) \
    for (int r = 0; r < rows; r++) { \
        sums[r] = 0; \
        for (unsigned l = 0; l < sizeof(v[r]) / sizeof(T); l++) sums[r] += v[r][l]; \
    }

INLINE void add_lanes_float(const int rows, const vector_float *v, float *sums) {
#if defined(__clang__) || __GNUC__ >= 12
    typedef float half __attribute__((vector_size(16)));
    half h[4];
    if (rows == 4) {
        for (int r = 0; r < 4; r++) {
            half low, high;
            memcpy(&low, &v[r], 16);
            memcpy(&high, (const char *)&v[r] + 16, 16);
            h[r] = low + high;
        }
        const half a = __builtin_shufflevector(h[0], h[1], 0, 4, 1, 5) + __builtin_shufflevector(h[0], h[1], 2, 6, 3, 7);
        const half b = __builtin_shufflevector(h[2], h[3], 0, 4, 1, 5) + __builtin_shufflevector(h[2], h[3], 2, 6, 3, 7);
        const half c = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
        memcpy(sums, &c, 16);
        return;
    }
#endif
    ADD_LANES(float)
}

INLINE void add_lanes_double(const int rows, const vector_double *v, double *sums) {
    ADD_LANES(double)
}

/* Matrix products C = A B, in vectors of W numbers. Strides: of A over i and p, of B over p, of C over i and j. */
#define MATRIX_PRODUCTS(T, W) \
    INLINE vector_##T load_##T(const T *from) { \
        vector_##T v; \
        memcpy(&v, from, sizeof v); \
        return v; \
    } \
    /* rows x vectors of C in registers; neighbours in j are neighbours in B */ \
    INLINE void tile_##T(const int rows, const int vectors, int64_t n, int64_t j, int64_t k, const T *a, int64_t ai, \
                         int64_t ak, const T *b, int64_t bk, T *c, int64_t ci, int64_t cj) { \
        vector_##T sums[4][4] = {{{0}}}; \
        int64_t starts[4]; \
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) { \
            starts[v] = j + v * W; \
            if (n >= W && starts[v] > n - W) starts[v] = n - W; /* overlaps the one before */ \
        } \
        for (int64_t p = 0; p < k; p++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) { \
                const vector_##T row = load_##T(b + p * bk + starts[v]); \
                _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sums[r][v] += a[r * ai + p * ak] * row; \
            } \
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) { \
                const int64_t width = n < W ? n : W; \
                if (cj == 1 && width == W) { \
                    memcpy(c + r * ci + starts[v], &sums[r][v], sizeof(vector_##T)); \
                } else { \
                    for (int64_t l = 0; l < width; l++) c[r * ci + (starts[v] + l) * cj] = sums[r][v][l]; \
                } \
            } \
    } \
    INLINE void rows_##T(const int rows, int64_t n, int64_t k, const T *a, int64_t ai, int64_t ak, const T *b, \
                         int64_t bk, T *c, int64_t ci, int64_t cj) { \
        const int most = rows > 1 ? 2 : 4; \
        int64_t j = 0; \
        for (; j + most * W <= n; j += most * W) tile_##T(rows, most, n, j, k, a, ai, ak, b, bk, c, ci, cj); \
        const int64_t left = n - j; \
        if (left > 3 * W) tile_##T(rows, 4, n, j, k, a, ai, ak, b, bk, c, ci, cj); \
        else if (left > 2 * W) tile_##T(rows, 3, n, j, k, a, ai, ak, b, bk, c, ci, cj); \
        else if (left > W) tile_##T(rows, 2, n, j, k, a, ai, ak, b, bk, c, ci, cj); \
        else if (left > 0) tile_##T(rows, 1, n, j, k, a, ai, ak, b, bk, c, ci, cj); \
    } \
    INLINE void product_##T(int64_t m, int64_t n, int64_t k, const T *a, int64_t ai, int64_t ak, const T *b, \
                            int64_t bk, T *c, int64_t ci, int64_t cj) { \
        int64_t i = 0; \
        for (; i + 4 <= m; i += 4) rows_##T(4, n, k, a + i * ai, ai, ak, b, bk, c + i * ci, ci, cj); \
        for (; i < m; i++) rows_##T(1, n, k, a + i * ai, ai, ak, b, bk, c + i * ci, ci, cj); \
    } \
    /* rows of A, which are dense, times a dense vector */ \
    INLINE void dot_##T(const int rows, int64_t k, const T *a, int64_t ai, const T *b, T *c, int64_t ci) { \
        vector_##T sums[4] = {{0}}; \
        int64_t p = 0; \
        for (; p + W <= k; p += W) { \
            const vector_##T given = load_##T(b + p); \
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sums[r] += load_##T(a + r * ai + p) * given; \
        } \
        T totals[4]; \
        add_lanes_##T(rows, sums, totals); \
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) { \
            for (int64_t q = p; q < k; q++) totals[r] += a[r * ai + q] * b[q]; \
            c[r * ci] = totals[r]; \
        } \
    } \
    INLINE void dots_##T(int64_t m, int64_t k, const T *a, int64_t ai, const T *b, T *c, int64_t ci) { \
        int64_t i = 0; \
        for (; i + 4 <= m; i += 4) dot_##T(4, k, a + i * ai, ai, b, c + i * ci, ci); \
        for (; i < m; i++) dot_##T(1, k, a + i * ai, ai, b, c + i * ci, ci); \
    }

MATRIX_PRODUCTS(float, 8)
MATRIX_PRODUCTS(double, 4)
