// Causal softmax attention of one head, forward and backward in float32, for head sizes D that are whole registers.
//
// Queries and keys are cut into blocks of SIDE tokens, in arrays [tokens, D] without gaps that zeros fill up, so that
// every product is one of full tiles. Scores lie with queries along a register, [keys, queries]: what a softmax needs of
// each query is then a register too, and no register has to be summed. Scores never leave the cache: the backward pass
// makes them again from q, k and the largest score and the sum of each row, which keeps both exact however large scores
// are.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "tiles.h"

constexpr int SIDE = 48, REGISTERS = SIDE / LANES;
constexpr float LARGEST = 3.402823466e38f;

// The tokens of a sequence.
struct Blocks {
    int64_t length;

    int64_t count() const { return (length + SIDE - 1) / SIDE; }
    int rows(int64_t block) const { return int(std::min<int64_t>(SIDE, length - block * SIDE)); }
    int64_t padded() const { return count() * SIDE; }
};

// A block of scores [keys, queries]: `rows` queries (fewer than SIDE in the last block). On the diagonal, key j is seen
// by the queries from j on, and there are as many keys.
struct Part {
    bool diagonal;
    int rows;

    int keys() const { return diagonal ? rows : SIDE; }
    int keys(int v) const { return diagonal ? std::min((v + 1) * LANES, rows) : SIDE; }  // that a register may see
    int first(int key) const { return diagonal ? key / LANES : 0; }  // register that holds something
    int end() const { return (rows + LANES - 1) / LANES; }
};

// Whether a register of queries sees a key, lane by lane.
inline Integers sees(int v, int key) {
    Integers query;
    for (int lane = 0; lane < LANES; ++lane) query[lane] = v * LANES + lane;
    return query >= key;
}

// Scores [SIDE, SIDE] = A [SIDE, D] B [D, SIDE], with rows of A for keys, handed on as done(key, register, score,
// whether this is the diagonal); only registers that hold something, except for a few that tiles reach into.
template <int D, class Done> void scores(const float *A, const float *B, Part part, Done done) {
    constexpr int V = REGISTERS % 3 == 0 && ACCUMULATORS == 24 ? 3 : WIDEST, R = rows_for(V), ONE = rows_for(1);
    if (!part.diagonal && part.end() == REGISTERS) {
        for (int j = 0; j < SIDE; j += R)
            for (int v = 0; v < REGISTERS; v += V)
                tile_of<R, V, true>(nullptr, 0, A + j * D, D, 1, B + v * LANES, SIDE, D, [&](int r, int w, Vector sum) {
                    done(j + r, v + w, sum, std::false_type{});
                });
        return;
    }
    const auto one_by_one = [&](auto diagonal) {
        for (int j = 0; j < part.keys(); j += ONE)
            for (int v = part.first(j); v < part.end(); ++v)
                tile_of<ONE, 1, true>(nullptr, 0, A + j * D, D, 1, B + v * LANES, SIDE, D,
                                      [&](int r, int, Vector sum) { done(j + r, v, sum, diagonal); });
    };
    if (part.diagonal)
        one_by_one(std::true_type{});
    else
        one_by_one(std::false_type{});
}

template <int D> struct Shape {
    static constexpr int V = std::min(D / LANES, WIDEST), R = rows_for(V);
};

// For keys: C [SIDE, D] += P [SIDE, SIDE] B [SIDE, D].
template <int D> void to_keys(float *C, const float *P, const float *B, Part part) {
    constexpr int V = Shape<D>::V, R = Shape<D>::R;
    for (int j = 0; j < part.keys(); j += R) {
        const int first = part.first(j) * LANES;
        for (int v = 0; v < D / LANES; v += V)
            tile<R, V, false>(C + j * D + v * LANES, D, P + j * SIDE + first, SIDE, 1, B + first * D + v * LANES, D,
                              part.rows - first);
    }
}

// For queries: C [SIDE, D] += Pᵀ B.
template <int D> void to_queries(float *C, const float *P, const float *B, Part part) {
    constexpr int V = Shape<D>::V, R = Shape<D>::R;
    for (int i = 0; i < part.rows; i += R)
        for (int v = 0; v < D / LANES; v += V)
            tile<R, V, false>(C + i * D + v * LANES, D, P + i, 1, SIDE, B + v * LANES, D,
                              part.diagonal ? std::min(i + R, part.rows) : SIDE);
}

// What no register holds becomes 0, because tiles of products reach into it.
inline void clear_rest(float *S, Part part) {
    if (!part.diagonal && part.end() == REGISTERS) return;
    for (int j = 0; j < part.keys(); ++j)
        for (int v = 0; v < REGISTERS; ++v)
            if (v < part.first(j) || v >= part.end()) store(S + j * SIDE + v * LANES, Vector{});
}

// Lanes of two registers, those of b counted on from those of a.
template <int... FROM> inline Vector picked(Vector a, Vector b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, FROM...);
#else
    return __builtin_shuffle(a, b, Integers{FROM...});
#endif
}

// Every other group of S lanes of a and b changes places: a part of a transposition.
template <int S, int... LANE> inline void swap_lanes(Vector &a, Vector &b, std::integer_sequence<int, LANE...>) {
    const Vector first = picked<(LANE & S ? LANES + LANE - S : LANE)...>(a, b);
    b = picked<(LANE & S ? LANES + LANE : LANE + S)...>(a, b);
    a = first;
}

template <int S = 1> inline void transpose_registers(Vector (&rows)[LANES]) {
    if constexpr (S < LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i)
            if (!(i & S)) swap_lanes<S>(rows[i], rows[i + S], std::make_integer_sequence<int, LANES>{});
        transpose_registers<2 * S>(rows);
    }
}

// A block [SIDE, D] as [D, SIDE].
template <int D> void transpose(float *to, const float *from) {
    for (int i = 0; i < SIDE; i += LANES)
        for (int d = 0; d < D; d += LANES) {
            Vector rows[LANES];
            for (int r = 0; r < LANES; ++r) rows[r] = load(from + (i + r) * D + d);
            transpose_registers(rows);
            for (int r = 0; r < LANES; ++r) store(to + (d + r) * SIDE + i, rows[r]);
        }
}

// Complex numbers side by side, `x`, times those of `turn` or, with `sign` -1, their conjugates.
template <int... LANE>
inline Vector turned(Vector x, Vector turn, float sign, std::integer_sequence<int, LANE...>) {
    const Vector cosine = picked<(LANE & ~1)...>(turn, turn), sine = picked<(LANE | 1)...>(turn, turn);
    const Vector signs = {(LANE & 1 ? sign : -sign)...};
    return x * cosine + picked<(LANE ^ 1)...>(x, x) * (sine * signs);
}

inline Vector turned(Vector x, Vector turn, float sign) {
    return turned(x, turn, sign, std::make_integer_sequence<int, LANES>{});
}

// x · y for D numbers.
template <int D, class Number> inline float dot(const float *x, const Number *y) {
    Vector total = {};
    for (int d = 0; d < D; d += LANES) total += load(x + d) * load(y + d);
    return sum(total);
}

// One head: q, k, v [padded, D], and what the way back needs of each row, [padded]: its largest score and
// 1 / Σ exp((score - largest) / √D).
template <int D> struct Head {
    Blocks tokens;
    const float *Q, *K, *V;
    float *highest, *inverse;

    static constexpr int64_t ONE = SIDE * D;
    static int64_t padded(const Blocks &tokens) { return tokens.padded(); }
    // Floats of `room`.
    static int64_t forward_room(const Blocks &) { return SIDE * SIDE + 2 * ONE; }
    static int64_t backward_room(const Blocks &tokens) { return 2 * SIDE * SIDE + 2 * tokens.padded() * D; }

    // Row t of the head's output is written to y + t * down.
    template <class Number> void forward(Number *y, int64_t down, float *room) const {
        for (int64_t block = 0; block < tokens.count(); ++block) queries(block, y + block * SIDE * down, down, room);
    }

    // With P = softmax(Q Kᵀ / √D): dV += Pᵀ dY, dS = P ⊙ (dY Vᵀ - rowsum(dY ⊙ Y)), dQ = dS K, dK += dSᵀ Q; dQ and dK
    // are still to be divided by √D. mean: the sums of rows, [padded].
    void backward(const float *dY, const float *mean, float *dQ, float *dK, float *dV, float *room) const {
        const float scale = LOG2_E / std::sqrt(float(D));
        float *S = room, *dP = S + SIDE * SIDE, *Qt = dP + SIDE * SIDE, *dYt = Qt + tokens.padded() * D;
        for (int64_t block = 0; block < tokens.count(); ++block) {
            transpose<D>(Qt + block * ONE, Q + block * ONE);
            transpose<D>(dYt + block * ONE, dY + block * ONE);
        }
        std::fill(dQ, dQ + tokens.padded() * D, 0.0f);
        for (int64_t key = 0; key < tokens.count(); ++key)
            for (int64_t query = key; query < tokens.count(); ++query) {
                const Part part{key == query, tokens.rows(query)};
                const float *high = highest + query * SIDE, *inv = inverse + query * SIDE, *average = mean + query * SIDE;
                scores<D>(K + key * ONE, Qt + query * ONE, part, [&](int j, int v, Vector score, auto diagonal) {
                    Vector p = power_of_two((score - load(high + v * LANES)) * scale) * load(inv + v * LANES);
                    if (diagonal) p = sees(v, j) ? p : Vector{};
                    store(S + j * SIDE + v * LANES, p);
                });
                scores<D>(V + key * ONE, dYt + query * ONE, part, [&](int j, int v, Vector d_p, auto) {
                    const int at = j * SIDE + v * LANES;
                    store(dP + at, load(S + at) * (d_p - load(average + v * LANES)));
                });
                clear_rest(S, part);
                clear_rest(dP, part);
                to_keys<D>(dV + key * ONE, S, dY + query * ONE, part);
                to_keys<D>(dK + key * ONE, dP, Q + query * ONE, part);
                to_queries<D>(dQ + query * ONE, dP, K + key * ONE, part);
            }
    }

  private:
    template <class Number> void queries(int64_t last, Number *y, int64_t down, float *S) const {
        const float scale = LOG2_E / std::sqrt(float(D));
        const int rows = tokens.rows(last);
        float *Qt = S + SIDE * SIDE, *Y = Qt + ONE;
        Vector sums[REGISTERS] = {}, tops[REGISTERS];
        for (Vector &top : tops) top = all(-LARGEST);  // finite, so that -∞ is far below it
        transpose<D>(Qt, Q + last * ONE);
        std::fill(Y, Y + ONE, 0.0f);
        for (int64_t block = 0; block <= last; ++block) {
            const Part part{block == last, rows};
            Vector now[REGISTERS];
            std::copy_n(tops, REGISTERS, now);
            scores<D>(K + block * ONE, Qt, part, [&](int j, int v, Vector score, auto diagonal) {
                if (diagonal) score = sees(v, j) ? score : all(-INFINITY);
                store(S + j * SIDE + v * LANES, score);
                now[v] = score > now[v] ? score : now[v];
            });
            for (int v = 0; v < part.end(); ++v) {
                const Vector top = now[v];
                if (block) shrink(Y + v * LANES * D, sums[v], power_of_two((tops[v] - top) * scale));
                tops[v] = top;
                Vector total = sums[v];
                for (int j = 0; j < part.keys(v); ++j) {
                    const Vector p = power_of_two((load(S + j * SIDE + v * LANES) - top) * scale);
                    total += p;
                    store(S + j * SIDE + v * LANES, p);
                }
                sums[v] = total;
            }
            clear_rest(S, part);
            to_queries<D>(Y, S, V + block * ONE, part);
        }
        for (int v = 0; v < REGISTERS; ++v) {
            store(highest + last * SIDE + v * LANES, tops[v]);
            store(inverse + last * SIDE + v * LANES, 1.0f / sums[v]);
        }
        for (int i = 0; i < rows; ++i)
            for (int d = 0; d < D; d += LANES)
                store(y + i * down + d, load(Y + i * D + d) * inverse[last * SIDE + i]);
    }

    // What was summed so far for a register of queries, now that their largest scores have grown.
    static void shrink(float *Y, Vector &total, Vector factors) {
        total *= factors;
        float factor[LANES];
        store(factor, factors);
        for (int i = 0; i < LANES; ++i)
            if (factor[i] != 1)
                for (int d = 0; d < D; d += LANES) store(Y + i * D + d, load(Y + i * D + d) * factor[i]);
    }
};
