#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

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

typedef float short_float __attribute__((vector_size(32)));
typedef double short_double __attribute__((vector_size(32)));
typedef float vector_float __attribute__((vector_size(VECTOR_BYTES)));
typedef double vector_double __attribute__((vector_size(VECTOR_BYTES)));

/* The sums over the lanes of `rows` vectors, at most four. */
#define ADD_LANES(T) \
    for (int r = 0; r < rows; r++) { \
        sums[r] = 0; \
        for (unsigned l = 0; l < sizeof(v[r]) / sizeof(T); l++) sums[r] += v[r][l]; \
    }

INLINE void add_lanes_float(const int rows, const short_float *v, float *sums) {
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

INLINE void add_lanes_double(const int rows, const short_double *v, double *sums) {
    ADD_LANES(double)
}

/* Matrix products C = A B, in vectors of W numbers. Strides: of A over i and p, of B over p, of C over i and j.

   A tile of C, a few rows by one to four vectors, stays in registers: 8 to 12 sums hide the latency of a multiplication,
   and leave room for what they are made of in the 16 registers of AVX2. A panel is a column of tiles. */
#define PANEL_ROWS(vectors) ((vectors) == 4 ? 3 : (vectors) == 3 ? 4 : (vectors) == 2 ? 6 : 8)
#define PACKED_FROM 16 /* rows: a panel of B whose vectors are not aligned is then copied to where they are */

#define MATRIX_PRODUCTS(T, W) \
    INLINE vector_##T load_##T(const T *from) { \
        vector_##T v; \
        memcpy(&v, from, sizeof v); \
        return v; \
    } \
    /* Adds to C where `more`. offsets, starts: of the vectors, in B and in C. */ \
    INLINE void tile_##T(const int rows, const int vectors, int more, int64_t k, const T *a, int64_t ai, int64_t ak, \
                         const T *b, int64_t bk, const int64_t *offsets, T *c, int64_t ci, const int64_t *starts) { \
        vector_##T sums[8][4] = {{{0}}}; \
        if (more) \
            _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) \
                _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) sums[r][v] = load_##T(c + r * ci + starts[v]); \
        for (int64_t p = 0; p < k; p++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) { \
                const vector_##T row = load_##T(b + p * bk + offsets[v]); \
                _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) sums[r][v] += a[r * ai + p * ak] * row; \
            } \
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) \
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) \
                memcpy(c + r * ci + starts[v], &sums[r][v], sizeof(vector_##T)); \
    } \
    /* A tile to where its columns are no neighbours, or fewer than a vector; what overlaps is left out. */ \
    static __attribute__((noinline, unused)) void scatter_##T(int rows, int vectors, int more, const T *tile, int64_t n, \
                                                              int64_t j, T *c, int64_t ci, int64_t cj) { \
        const int64_t columns = n - j < vectors * W ? n - j : vectors * W, whole = columns / W * W; \
        for (int r = 0; r < rows; r++) \
            for (int64_t l = 0; l < columns; l++) { \
                /* a last vector was moved to the left, unless it is the only one */ \
                const T value = tile[r * vectors * W + (l < whole || n < W ? l : l + W - (columns - whole))]; \
                T *at = c + r * ci + (j + l) * cj; \
                *at = more ? *at + value : value; \
            } \
    } \
    PANEL(T, 1) \
    PANEL(T, 2) \
    PANEL(T, 3) \
    PANEL(T, 4) \
    /* The share of thread `part` of `parts`: rows, or vectors where there are few rows. */ \
    static __attribute__((unused)) void product_##T(int64_t m, int64_t n, int64_t k, const T *a, int64_t ai, \
                                                    int64_t ak, const T *b, int64_t bk, T *c, int64_t ci, int64_t cj, \
                                                    int64_t part, int64_t parts) { \
        const int64_t vectors = (n + W - 1) / W, panels = (vectors + 3) / 4, blocks = (m + 11) / 12; \
        const int by_rows = blocks >= 2 * parts || blocks >= panels; \
        const int64_t first = by_rows ? blocks * part / parts * 12 : 0; \
        const int64_t end = by_rows ? blocks * (part + 1) / parts * 12 : m, last = end < m ? end : m; \
        const int64_t q0 = by_rows ? 0 : panels * part / parts, q1 = by_rows ? panels : panels * (part + 1) / parts; \
        for (int64_t p = 0; p == 0 || p < k; p += PANEL_DEPTH) { \
            const int64_t depth = k - p < PANEL_DEPTH ? k - p : PANEL_DEPTH; \
            for (int64_t q = q0; q < q1; q++) { \
                const int64_t j = q * vectors / panels, wide = (q + 1) * vectors / panels - j; \
                (wide == 1   ? panel_##T##_1 \
                 : wide == 2 ? panel_##T##_2 \
                 : wide == 3 ? panel_##T##_3 \
                             : panel_##T##_4)(p > 0, first, last, n, j * W, depth, a + p * ak, ai, ak, b + p * bk, \
                                              bk, c, ci, cj); \
            } \
        } \
    }

#define TILE(T, rows, vectors) \
    if (direct) { \
        tile_##T(rows, vectors, more, k, a + i * ai, ai, ak, b, bk, offsets, c + i * ci, ci, starts); \
    } else { \
        tile_##T(rows, vectors, 0, k, a + i * ai, ai, ak, b, bk, offsets, tile, vectors * W, side_by_side); \
        scatter_##T(rows, vectors, more, tile, n, j, c + i * ci, ci, cj); \
    }

#define PANEL(T, vectors) \
    static __attribute__((noinline, unused)) void panel_##T##_##vectors( \
        int more, int64_t first, int64_t last, int64_t n, int64_t j, int64_t k, const T *a, int64_t ai, int64_t ak, \
        const T *b, int64_t bk, T *c, int64_t ci, int64_t cj) { \
        const int most = PANEL_ROWS(vectors), W = VECTOR_BYTES / sizeof(T), direct = cj == 1 && n >= W; \
        T packed[PANEL_DEPTH * vectors * W] __attribute__((aligned(VECTOR_BYTES))), tile[8 * vectors * W]; \
        int64_t starts[vectors], side_by_side[vectors], offsets[vectors], i = first; \
        for (int v = 0; v < vectors; v++) { \
            side_by_side[v] = v * W, starts[v] = j + v * W; \
            if (n >= W && starts[v] > n - W) starts[v] = n - W; /* overlaps the one before */ \
            offsets[v] = starts[v]; \
        } \
        if (last - first >= PACKED_FROM && ((uintptr_t)(b + j) | bk * sizeof(T)) % VECTOR_BYTES) { \
            for (int64_t p = 0; p < k; p++) \
                _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) \
                    memcpy(packed + (p * vectors + v) * W, b + p * bk + starts[v], VECTOR_BYTES); \
            for (int v = 0; v < vectors; v++) offsets[v] = v * W; \
            b = packed, bk = vectors * W; \
        } \
        for (; i + most <= last; i += most) TILE(T, most, vectors) \
        for (; most > 2 && i + 2 <= last; i += 2) TILE(T, 2, vectors) \
        for (; i < last; i++) TILE(T, 1, vectors) \
    }

/* What there is to unroll is unrolled above; -O3 would take five times as long to find nothing more. */
#pragma GCC push_options
#pragma GCC optimize("O2")
MATRIX_PRODUCTS(float, (VECTOR_BYTES / 4))
MATRIX_PRODUCTS(double, (VECTOR_BYTES / 8))
#pragma GCC pop_options

/* Rows of A, which are dense, times a dense vector: in vectors of 32 bytes, as most rows are short. */
#define MATRIX_TIMES_VECTOR(T, W) \
    INLINE void dot_##T(const int rows, int64_t k, const T *a, int64_t ai, const T *b, T *c, int64_t ci) { \
        short_##T sums[4] = {{0}}; \
        int64_t p = 0; \
        for (; p + W <= k; p += W) { \
            short_##T given, row; \
            memcpy(&given, b + p, sizeof given); \
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) { \
                memcpy(&row, a + r * ai + p, sizeof row); \
                sums[r] += row * given; \
            } \
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

MATRIX_TIMES_VECTOR(float, 8)
MATRIX_TIMES_VECTOR(double, 4)
