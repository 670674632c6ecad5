// Causal softmax attention forward and backward in float32, for head sizes that are whole registers.
//
// Queries and keys are cut into blocks of SIDE tokens, copied into arrays without gaps and filled up with zeros, so that
// every product is one of full tiles; where positions are rotary, q and k are turned on the way, and their gradients
// back. Scores lie with queries along a register, [keys, queries]: what a softmax needs of each query is then a register
// too, and no register has to be summed. Scores never leave the cache: the backward pass makes them again from q, k and
// the largest score and the sum of each row, which keeps both exact however large scores are.

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "tiles.h"

namespace {

constexpr int SIDE = 48, REGISTERS = SIDE / LANES;
constexpr float LARGEST = 3.402823466e38f;
constexpr int AHEAD = 8, LINE = 16;  // tokens between what is asked for and what is read; floats of a line of the cache

struct Sizes {
    int64_t batch, heads, kv_heads, length, size, threads;

    int64_t blocks() const { return (length + SIDE - 1) / SIDE; }
    int rows(int64_t block) const { return int(std::min<int64_t>(SIDE, length - block * SIDE)); }
    int64_t padded() const { return blocks() * SIDE; }
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
    constexpr int V = REGISTERS % 3 == 0 && ACCUMULATORS == 24 ? 3 : WIDEST, R = rows_for(V);
    for (int j = 0; j < part.keys(); j += R)
        if (part.diagonal)
            for (int v = part.first(j); v < part.end(); ++v)
                tile_of<R, 1, true>(nullptr, 0, A + j * D, D, 1, B + v * LANES, SIDE, D, [&](int r, int, Vector sum) {
                    done(j + r, v, sum, std::true_type{});
                });
        else
            for (int v = 0; v < REGISTERS; v += V)
                tile_of<R, V, true>(nullptr, 0, A + j * D, D, 1, B + v * LANES, SIDE, D, [&](int r, int w, Vector sum) {
                    done(j + r, v + w, sum, std::false_type{});
                });
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
void clear_rest(float *S, Part part) {
    if (!part.diagonal) return;
    for (int j = LANES; j < part.rows; ++j) std::fill(S + j * SIDE, S + j * SIDE + part.first(j) * LANES, 0.0f);
}

// Complex numbers side by side, `x`, times those of `turn` or, with `sign` -1, their conjugates.
inline Vector turned(Vector x, Vector turn, float sign) {
    typedef uint64_t Pairs __attribute__((vector_size(4 * LANES)));
    const Pairs both = (Pairs)turn, pair = (Pairs)x;
    const Pairs cosine = both << 32 | (both << 32) >> 32, sine = both >> 32 | (both >> 32) << 32;
    const Pairs minus = (both & 0) | 0x80000000u;  // the sign of the first of each pair
    const Vector swapped = (Vector)((pair << 32 | pair >> 32) ^ minus);  // (-imaginary, real)
    return x * (Vector)cosine + swapped * ((Vector)sine * sign);
}

// All tokens of one head in order, zeros behind the last, turned where there are `turns` [length, D].
template <int D>
void copy(float *to, const Heads &from, int64_t b, int64_t h, const Sizes &size, const float *turns = nullptr) {
    for (int64_t t = 0; t < size.length; ++t) {
        const float *row = from.at(b, h, t);
        for (int d = 0; d < D; d += LINE) __builtin_prefetch(row + AHEAD * from.time + d);
        for (int d = 0; d < D; d += LANES)
            store(to + t * D + d, turns ? turned(load(row + d), load(turns + t * D + d), 1) : load(row + d));
    }
    std::fill(to + size.length * D, to + size.padded() * D, 0.0f);
}

// Turned back, and scaled.
template <int D>
void write(const Heads &to, const float *from, int64_t b, int64_t h, const Sizes &size, float factor,
           const float *turns = nullptr) {
    for (int64_t t = 0; t < size.length; ++t) {
        float *row = to.at(b, h, t);
        for (int d = 0; d < D; d += LINE) __builtin_prefetch(row + AHEAD * to.time + d, 1);
        for (int d = 0; d < D; d += LANES) {
            const Vector value = factor * load(from + t * D + d);
            store(row + d, turns ? turned(value, load(turns + t * D + d), -1) : value);
        }
    }
}

// A block [SIDE, D] as [D, SIDE].
template <int D> void transpose(float *to, const float *from) {
    for (int i = 0; i < SIDE; ++i)
        for (int d = 0; d < D; ++d) to[d * SIDE + i] = from[i * D + d];
}

struct Forward {
    Sizes size;
    Heads q, k, v, y;
    const float *turns;  // [length, D] as complex numbers, or null
    float *rows;  // [2, B, H, L]: the largest score of each row, and 1 / Σ exp((score - largest) / √D)

    // Y [SIDE, D] for the queries of block `last`, with room for scores S and for the queries transposed.
    template <int D> void query_block(const float *Q, const float *K, const float *V, int64_t last, float *Y, float *S,
                                      float *Qt, float *highest, float *inverse) const {
        const float scale = LOG2_E / std::sqrt(float(D));
        const int rows = size.rows(last);
        Vector sums[REGISTERS] = {}, tops[REGISTERS];
        for (Vector &top : tops) top = all(-LARGEST);  // finite, so that -∞ is far below it
        transpose<D>(Qt, Q);
        std::fill(Y, Y + SIDE * D, 0.0f);
        for (int64_t block = 0; block <= last; ++block) {
            const Part part{block == last, rows};
            Vector now[REGISTERS];
            std::copy_n(tops, REGISTERS, now);
            scores<D>(K + block * SIDE * D, Qt, part, [&](int j, int v, Vector score, auto diagonal) {
                if (diagonal) score = sees(v, j) ? score : all(-INFINITY);
                store(S + j * SIDE + v * LANES, score);
                now[v] = score > now[v] ? score : now[v];
            });
            for (int v = 0; v < part.end(); ++v) {
                const Vector top = now[v];
                if (block) shrink<D>(Y + v * LANES * D, sums[v], power_of_two((tops[v] - top) * scale));
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
            to_queries<D>(Y, S, V + block * SIDE * D, part);
        }
        for (int v = 0; v < REGISTERS; ++v) {
            store(highest + v * LANES, tops[v]);
            store(inverse + v * LANES, 1.0f / sums[v]);
        }
        for (int i = 0; i < rows; ++i)
            for (int d = 0; d < D; d += LANES) store(Y + i * D + d, load(Y + i * D + d) * inverse[i]);
    }

    // What was summed so far for a register of queries, now that their largest scores have grown.
    template <int D> static void shrink(float *Y, Vector &total, Vector factors) {
        total *= factors;
        float factor[LANES];
        store(factor, factors);
        for (int i = 0; i < LANES; ++i)
            if (factor[i] != 1)
                for (int d = 0; d < D; d += LANES) store(Y + i * D + d, load(Y + i * D + d) * factor[i]);
    }

    template <int D> void run(int64_t task) const {
        const int64_t one = size.padded() * D, group = size.heads / size.kv_heads;
        const int64_t b = task / size.kv_heads, kv = task % size.kv_heads;
        Scratch scratch(4 * one + SIDE * SIDE + SIDE * D + 2 * size.padded(), false);
        float *K = scratch, *V = K + one, *Q = V + one, *Y = Q + one, *S = Y + one, *Qt = S + SIDE * SIDE;
        float *highest = Qt + SIDE * D, *inverse = highest + size.padded();
        copy<D>(K, k, b, kv, size, turns);
        copy<D>(V, v, b, kv, size);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            copy<D>(Q, q, b, h, size, turns);
            for (int64_t block = 0; block < size.blocks(); ++block)
                query_block<D>(Q + block * SIDE * D, K, V, block, Y + block * SIDE * D, S, Qt, highest + block * SIDE,
                               inverse + block * SIDE);
            write<D>(y, Y, b, h, size, 1);
            std::copy_n(highest, size.length, rows + (b * size.heads + h) * size.length);
            std::copy_n(inverse, size.length, rows + ((size.batch + b) * size.heads + h) * size.length);
        }
    }
};

struct Backward {
    Sizes size;
    Heads q, k, v, y, d_y, d_q, d_k, d_v;
    const float *turns, *rows;

    // With P = softmax(q kᵀ / √D): dV = Pᵀ dY, dS = P ⊙ (dY Vᵀ - rowsum(dY ⊙ Y)), dQ = dS K / √D, dK = dSᵀ Q / √D.
    template <int D> void run(int64_t task) const {
        const int64_t all = size.padded() * D, group = size.heads / size.kv_heads, one = SIDE * D;
        const int64_t b = task / size.kv_heads, kv = task % size.kv_heads;
        Scratch scratch(9 * all + 2 * SIDE * SIDE + 3 * size.padded(), false);
        float *K = scratch, *V = K + all, *Q = V + all, *Qt = Q + all, *dY = Qt + all, *dYt = dY + all;
        float *dQ = dYt + all, *dK = dQ + all, *dV = dK + all, *S = dV + all, *dP = S + SIDE * SIDE;
        float *highest = dP + SIDE * SIDE, *inverse = highest + size.padded(), *mean = inverse + size.padded();
        const float scale = 1 / std::sqrt(float(D));
        copy<D>(K, k, b, kv, size, turns);
        copy<D>(V, v, b, kv, size);
        std::fill(dK, dV + all, 0.0f);
        std::fill(highest, mean + size.padded(), 0.0f);  // also behind the last token, where probabilities become 0
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            copy<D>(Q, q, b, h, size, turns);
            copy<D>(dY, d_y, b, h, size);
            std::copy_n(rows + (b * size.heads + h) * size.length, size.length, highest);
            std::copy_n(rows + ((size.batch + b) * size.heads + h) * size.length, size.length, inverse);
            for (int64_t t = 0; t < size.length; ++t) {
                Vector total = {};
                for (int d = 0; d < D; d += LANES) total += load(dY + t * D + d) * load(y.at(b, h, t) + d);
                mean[t] = sum(total);
            }
            for (int64_t block = 0; block < size.blocks(); ++block) {
                transpose<D>(Qt + block * one, Q + block * one);
                transpose<D>(dYt + block * one, dY + block * one);
            }
            std::fill(dQ, dQ + all, 0.0f);
            for (int64_t key = 0; key < size.blocks(); ++key)
                for (int64_t query = key; query < size.blocks(); ++query) {
                    const Part part{key == query, size.rows(query)};
                    const float *high = highest + query * SIDE, *inv = inverse + query * SIDE;
                    const float *average = mean + query * SIDE;
                    scores<D>(K + key * one, Qt + query * one, part, [&](int j, int v, Vector score, auto diagonal) {
                        Vector p = power_of_two((score - load(high + v * LANES)) * (scale * LOG2_E));
                        p *= load(inv + v * LANES);
                        if (diagonal) p = sees(v, j) ? p : Vector{};
                        store(S + j * SIDE + v * LANES, p);
                    });
                    scores<D>(V + key * one, dYt + query * one, part, [&](int j, int v, Vector d_p, auto) {
                        const int at = j * SIDE + v * LANES;
                        store(dP + at, load(S + at) * (d_p - load(average + v * LANES)));
                    });
                    clear_rest(S, part);
                    clear_rest(dP, part);
                    to_keys<D>(dV + key * one, S, dY + query * one, part);
                    to_keys<D>(dK + key * one, dP, Q + query * one, part);
                    to_queries<D>(dQ + query * one, dP, K + key * one, part);
                }
            write<D>(d_q, dQ, b, h, size, scale, turns);
        }
        write<D>(d_k, dK, b, kv, size, scale, turns);
        write<D>(d_v, dV, b, kv, size, 1);
    }
};

template <class Pass> void run(const Pass *pass) {
    const Sizes &size = pass->size;
    parallel(size.batch * size.kv_heads, size.threads, [=](int64_t task) {
        switch (size.size) {
        case 16: return pass->template run<16>(task);
        case 32: return pass->template run<32>(task);
        case 64: return pass->template run<64>(task);
        }
    });
}

}  // namespace

extern "C" void attention_forward(const Forward *pass) { run(pass); }

extern "C" void attention_backward(const Backward *pass) { run(pass); }
