// Causal linear attention y_i = Σ_{j ≤ i} (q_i · k_j) v_j in float32, for head sizes that are whole registers.
//
// Chunk by chunk, with S = Σ k ⊗ v over the chunks before, Y = [Q | tril(Q Kᵀ)] [S ; V], then S += Kᵀ V. What is written
// side by side here lies side by side in memory, so that both parts of Y are one product. Scores and S stay in the cache.

#include <algorithm>

#include "tiles.h"

namespace {

// Tokens. The work is CHUNK · (h + m) / 2 within chunks and 2 h m between them, for each token: short chunks are cheap,
// as long as the sums of a tile of S are not loaded and stored more often than they are worth.
constexpr int CHUNK = 32;

// [batch, head, time, element] with elements side by side; distances in floats.
struct Heads {
    float *data;
    int64_t batch, head, time;

    float *at(int64_t b, int64_t h, int64_t t) const { return data + b * batch + h * head + t * time; }
};

constexpr int rows_of_tile(int registers) { return (ACCUMULATORS == 24 ? 16 : 8) / registers; }

// Whole strips of V registers: C [rows, columns] += (or, where `FRESH`, =) A [rows, depth(row)] B [depth(row), columns],
// where A's columns are side by side.
template <int V, bool FRESH, class Depth>
inline void product(float *C, const float *A, int64_t a, const float *B, int64_t rows, int64_t columns, Depth depth) {
    constexpr int R = rows_of_tile(V);
    for (int64_t column = 0; column < columns; column += V * LANES)
        for (int64_t r = 0; r < rows; r += R)
            tile<R, V, FRESH>(C + r * columns + column, columns, A + r * a, a, 1, B + column, columns, depth(r + R));
}

template <bool FRESH, class Depth>
inline void product(float *C, const float *A, int64_t a, const float *B, int64_t rows, int64_t columns, Depth depth) {
    if (WIDEST == 4 && columns % (4 * LANES) == 0) return product<WIDEST, FRESH>(C, A, a, B, rows, columns, depth);
    if (columns % (2 * LANES) == 0) return product<2, FRESH>(C, A, a, B, rows, columns, depth);
    product<1, FRESH>(C, A, a, B, rows, columns, depth);
}

// The lower triangle of A [CHUNK, depth] B [depth, CHUNK], zeros above it. C and A have rows `a` apart.
inline void scores(float *C, const float *A, int64_t a, const float *B, int64_t depth) {
    constexpr int R = rows_of_tile(2);
    for (int r = 0; r < CHUNK; r += R) {
        const int wanted = (r + R - 1) / LANES + 1;
        int v = 0;
        for (; v + 2 <= wanted; v += 2)
            tile<R, 2, true>(C + r * a + v * LANES, a, A + r * a, a, 1, B + v * LANES, CHUNK, depth);
        if (v < wanted) tile<R, 1, true>(C + r * a + v * LANES, a, A + r * a, a, 1, B + v * LANES, CHUNK, depth);
    }
    for (int i = 0; i < CHUNK; ++i) std::fill(C + i * a + i + 1, C + i * a + CHUNK, 0.0f);
}

// Of the lanes of two registers taken in turns, one register: from lane FIRST of both on.
template <int FIRST, int... LANE> inline Vector in_turns(Vector x, Vector y, std::integer_sequence<int, LANE...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, y, (FIRST + LANE / 2 + LANE % 2 * LANES)...);
#else
    return __builtin_shuffle(x, y, Integers{(FIRST + LANE / 2 + LANE % 2 * LANES)...});
#endif
}

// to [j, i] = from [i, j] for LANES rows and columns, rows `down` apart. Each round rotates the bits of (row, lane) by one.
inline void transpose(float *to, int64_t to_down, const float *from, int64_t from_down) {
    constexpr std::make_integer_sequence<int, LANES> lanes;
    Vector x[LANES], y[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) x[i] = load(from + i * from_down);
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; ++i) {
            y[2 * i] = in_turns<0>(x[i], x[i + LANES / 2], lanes);
            y[2 * i + 1] = in_turns<LANES / 2>(x[i], x[i + LANES / 2], lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) x[i] = y[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) store(to + i * to_down, x[i]);
}

// `count` tokens of `size` elements, zeros up to CHUNK. Rows of `to` are `down` apart.
inline void read(float *to, int64_t down, const float *from, int64_t time, int64_t count, int64_t size) {
    for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < size; i += LANES) store(to + t * down + i, load(from + t * time + i));
    for (int64_t t = count; t < CHUNK; ++t) std::fill(to + t * down, to + t * down + size, 0.0f);
}

// The same as [size, CHUNK].
inline void read_transposed(float *to, const float *from, int64_t time, int64_t count, int64_t size) {
    for (int64_t t = 0; t < CHUNK; t += LANES) {
        float rest[LANES * LANES];
        for (int64_t i = 0; i < size; i += LANES) {
            if (t + LANES <= count) {
                transpose(to + i * CHUNK + t, CHUNK, from + t * time + i, time);
                continue;
            }
            for (int64_t row = 0; row < LANES; ++row)
                store(rest + row * LANES, t + row < count ? load(from + (t + row) * time + i) : Vector{});
            transpose(to + i * CHUNK + t, CHUNK, rest, LANES);
        }
    }
}

struct Pass {
    int64_t batch, heads, length, keys, values, threads;  // keys, values: elements of a head of q and k, of v and y
    Heads q, k, v, y;

    void run(int64_t task) const {
        const int64_t b = task / heads, h = task % heads, width = keys + CHUNK;
        Scratch scratch(CHUNK * width + width * values + keys * CHUNK + CHUNK * values);
        float *Q = scratch, *P = Q + keys, *S = Q + CHUNK * width, *V = S + keys * values;
        float *K = V + CHUNK * values, *Y = K + keys * CHUNK;
        for (int64_t t = 0; t < length; t += CHUNK) {
            const int64_t count = std::min<int64_t>(CHUNK, length - t), seen = t == 0 ? keys : 0;
            read(Q, width, q.at(b, h, t), q.time, count, keys);
            read(V, values, v.at(b, h, t), v.time, count, values);
            read_transposed(K, k.at(b, h, t), k.time, count, keys);
            scores(P, Q, width, K, keys);
            product<true>(Y, Q + seen, width, S + seen * values, CHUNK, values,
                          [=](int64_t end) { return keys - seen + end; });
            for (int64_t i = 0; i < count; ++i)
                for (int64_t j = 0; j < values; j += LANES) store(y.at(b, h, t + i) + j, load(Y + i * values + j));
            if (t + CHUNK < length)
                product<false>(S, K, CHUNK, V, keys, values, [](int64_t) { return CHUNK; });
        }
    }
};

}  // namespace

extern "C" void linear_attention(const Pass *pass) {
    parallel(pass->batch * pass->heads, pass->threads, [=](int64_t task) { pass->run(task); });
}
