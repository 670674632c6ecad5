// Products of small matrices that lie in the first-level cache, a tile of sums in registers at a time.

#pragma once

#include "vector.h"

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ACCUMULATORS = 24, WIDEST = 4;  // of 32 registers
#else
constexpr int ACCUMULATORS = 12, WIDEST = 2;  // of 16
#endif

constexpr int rows_for(int registers) { return registers == 1 ? 12 : ACCUMULATORS / registers; }

// C [R, V registers] + (or, where `FRESH`, only) Σ_k A[·, k] B[k, ·] is handed on as done(row, register, sum); A's rows
// are `down` apart, its columns `along`. Always inlined, so that a known depth unrolls.
template <int R, int V, bool FRESH, class Done>
__attribute__((always_inline)) inline void tile_of(const float *C, int64_t c, const float *A, int64_t down,
                                                   int64_t along, const float *B, int64_t b, int64_t depth, Done done) {
    Vector sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = FRESH ? Vector{} : load(C + r * c + v * LANES);
    for (int64_t k = 0; k < depth; ++k) {
        Vector row[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) row[v] = load(B + k * b + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const float factor = A[r * down + k * along];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[r][v] += factor * row[v];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) done(r, v, sums[r][v]);
}

// The same, with the sums kept in C.
template <int R, int V, bool FRESH>
__attribute__((always_inline)) inline void tile(float *C, int64_t c, const float *A, int64_t down, int64_t along,
                                                const float *B, int64_t b, int64_t depth) {
    tile_of<R, V, FRESH>(C, c, A, down, along, B, b, depth,
                         [=](int r, int v, Vector sum) { store(C + r * c + v * LANES, sum); });
}
