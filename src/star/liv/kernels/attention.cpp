// Causal softmax attention forward and backward in float32, for head sizes that are whole registers.
//
// Queries and keys are cut into blocks of SIDE tokens, copied into arrays without gaps and filled up with zeros, so that
// every product is one of full tiles. Scores never leave the cache: the backward pass makes them again from q, k and
// the largest score and the sum of each row, which keeps both exact however large scores are.

#include <algorithm>
#include <cmath>

#include "tiles.h"

namespace {

constexpr int SIDE = 48;
// [batch, head, time, element] with elements side by side; distances in floats.
struct Heads {
    float *data;
    int64_t batch, head, time;

    float *at(int64_t b, int64_t h, int64_t t) const { return data + b * batch + h * head + t * time; }
};

struct Sizes {
    int64_t batch, heads, kv_heads, length, size, threads;

    int64_t blocks() const { return (length + SIDE - 1) / SIDE; }
    int rows(int64_t block) const { return int(std::min<int64_t>(SIDE, length - block * SIDE)); }
    int64_t padded() const { return blocks() * SIDE; }
};

// A block of scores: `rows` queries (fewer than SIDE in the last block), lower triangular on the diagonal.
struct Part {
    bool diagonal;
    int rows;
};

// Scores [SIDE, SIDE] = A [SIDE, D] B [D, SIDE]. On the diagonal only registers that hold a column up to their row.
template <int D> void scores(float *C, const float *A, const float *B, Part part) {
    constexpr int all = SIDE / LANES, V = all % 3 == 0 && ACCUMULATORS == 24 ? 3 : WIDEST, R = rows_for(V);
    for (int r = 0; r < part.rows; r += R) {
        const int wanted = part.diagonal ? (r + R - 1) / LANES + 1 : all;
        int v = 0;
        for (; v + V <= wanted; v += V)
            tile<R, V, true>(C + r * SIDE + v * LANES, SIDE, A + r * D, D, 1, B + v * LANES, SIDE, D);
        for (; v < wanted; ++v)
            tile<R, 1, true>(C + r * SIDE + v * LANES, SIDE, A + r * D, D, 1, B + v * LANES, SIDE, D);
    }
}

template <int D> struct Shape {
    static constexpr int V = std::min(D / LANES, WIDEST), R = rows_for(V);
};

// C [SIDE, D] += P [SIDE, SIDE] B [SIDE, D].
template <int D> void apply(float *C, const float *P, const float *B, Part part) {
    constexpr int V = Shape<D>::V, R = Shape<D>::R;
    for (int r = 0; r < part.rows; r += R)
        for (int v = 0; v < D / LANES; v += V)
            tile<R, V, false>(C + r * D + v * LANES, D, P + r * SIDE, SIDE, 1, B + v * LANES, D,
                              part.diagonal ? r + R : SIDE);
}

// C [SIDE, D] += Pᵀ B.
template <int D> void apply_transposed(float *C, const float *P, const float *B, Part part) {
    constexpr int V = Shape<D>::V, R = Shape<D>::R;
    for (int r = 0; r < SIDE; r += R) {
        const int first = part.diagonal ? std::min(r, part.rows) : 0;
        for (int v = 0; v < D / LANES; v += V)
            tile<R, V, false>(C + r * D + v * LANES, D, P + first * SIDE + r, 1, SIDE, B + first * D + v * LANES, D,
                              part.rows - first);
    }
}

// Scores above the diagonal become -∞.
void hide_future(float *scores, Part part) {
    if (!part.diagonal) return;
    for (int i = 0; i < part.rows; ++i) std::fill(scores + i * SIDE + i + 1, scores + (i + 1) * SIDE, -INFINITY);
}

// All tokens of one head in order, zeros behind the last.
template <int D> void copy(float *to, const Heads &from, int64_t b, int64_t h, const Sizes &size) {
    for (int64_t t = 0; t < size.length; ++t) {
        std::memcpy(to + t * D, from.at(b, h, t), D * sizeof(float));
    }
    std::fill(to + size.length * D, to + size.padded() * D, 0.0f);
}

// Each block [SIDE, D] as [D, SIDE].
template <int D> void transpose(float *to, const float *from, const Sizes &size) {
    for (int64_t block = 0; block < size.blocks(); ++block, to += SIDE * D, from += SIDE * D)
        for (int j = 0; j < SIDE; ++j)
            for (int d = 0; d < D; ++d) to[d * SIDE + j] = from[j * D + d];
}

template <int D> void write(const Heads &to, const float *from, int64_t b, int64_t h, const Sizes &size, float factor) {
    for (int64_t t = 0; t < size.length; ++t) {
        float *row = to.at(b, h, t);
        for (int d = 0; d < D; ++d) row[d] = factor * from[t * D + d];
    }
}

struct Forward {
    Sizes size;
    Heads q, k, v, y;
    float *rows;  // [2, B, H, L]: the largest score of each row, and 1 / Σ exp((score - largest) / √D)

    template <int D> void query_block(const float *Q, const float *K, const float *V, int64_t last, float *Y, float *S,
                                      float *highest, float *inverse) const {
        const float scale = LOG2_E / std::sqrt(float(D));
        Vector sums[SIDE] = {};
        std::fill(highest, highest + SIDE, -INFINITY);
        std::fill(Y, Y + SIDE * D, 0.0f);
        for (int64_t block = 0; block <= last; ++block) {
            const Part part{block == last, size.rows(last)};
            scores<D>(S, Q, K + block * SIDE * D, part);
            hide_future(S, part);
            for (int i = 0; i < part.rows; ++i) {
                float *row = S + i * SIDE;
                Vector top = load(row);
                for (int j = LANES; j < SIDE; j += LANES) top = load(row + j) > top ? load(row + j) : top;
                const float now = std::max(highest[i], largest(top));
                if (now > highest[i]) {
                    const float shrink = std::exp2((highest[i] - now) * scale);
                    highest[i] = now;
                    sums[i] *= shrink;
                    for (int d = 0; d < D; d += LANES) store(Y + i * D + d, load(Y + i * D + d) * shrink);
                }
                for (int j = 0; j < SIDE; j += LANES) {
                    const Vector p = power_of_two((load(row + j) - highest[i]) * scale);
                    sums[i] += p;
                    store(row + j, p);
                }
            }
            apply<D>(Y, S, V + block * SIDE * D, part);
        }
        for (int i = 0; i < size.rows(last); ++i) {
            inverse[i] = 1 / sum(sums[i]);
            for (int d = 0; d < D; d += LANES) store(Y + i * D + d, load(Y + i * D + d) * inverse[i]);
        }
    }

    template <int D> void run(int64_t task) const {
        const int64_t all = size.padded() * D, group = size.heads / size.kv_heads;
        const int64_t b = task / size.kv_heads, kv = task % size.kv_heads;
        Scratch scratch(4 * all + SIDE * SIDE + 2 * size.padded());
        float *K = scratch, *V = K + all, *Q = V + all, *Y = Q + all, *S = Y + all, *highest = S + SIDE * SIDE;
        float *inverse = highest + size.padded();
        copy<D>(Q, k, b, kv, size);
        transpose<D>(K, Q, size);
        copy<D>(V, v, b, kv, size);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            copy<D>(Q, q, b, h, size);
            for (int64_t block = 0; block < size.blocks(); ++block)
                query_block<D>(Q + block * SIDE * D, K, V, block, Y + block * SIDE * D, S,
                               highest + block * SIDE, inverse + block * SIDE);
            write<D>(y, Y, b, h, size, 1);
            std::copy_n(highest, size.length, rows + (b * size.heads + h) * size.length);
            std::copy_n(inverse, size.length, rows + ((size.batch + b) * size.heads + h) * size.length);
        }
    }
};

struct Backward {
    Sizes size;
    Heads q, k, v, y, d_y, d_q, d_k, d_v;
    const float *rows;

    // With P = softmax(q kᵀ / √D): dV = Pᵀ dY, dS = P ⊙ (dY Vᵀ - rowsum(dY ⊙ Y)), dQ = dS K / √D, dK = dSᵀ Q / √D.
    template <int D> void run(int64_t task) const {
        const int64_t all = size.padded() * D, group = size.heads / size.kv_heads, one = SIDE * D;
        const int64_t b = task / size.kv_heads, kv = task % size.kv_heads;
        Scratch scratch(9 * all + 2 * SIDE * SIDE + 3 * size.padded());
        float *K = scratch, *Kt = K + all, *Vt = Kt + all, *Q = Vt + all, *dY = Q + all;
        float *dQ = dY + all, *dK = dQ + all, *dV = dK + all, *S = dV + all, *dP = S + SIDE * SIDE;
        float *highest = dP + SIDE * SIDE, *inverse = highest + size.padded(), *mean = inverse + size.padded();
        const float scale = 1 / std::sqrt(float(D));
        copy<D>(Q, v, b, kv, size);
        transpose<D>(Vt, Q, size);
        copy<D>(K, k, b, kv, size);
        transpose<D>(Kt, K, size);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            copy<D>(Q, q, b, h, size);
            copy<D>(dY, d_y, b, h, size);
            std::copy_n(rows + (b * size.heads + h) * size.length, size.length, highest);
            std::copy_n(rows + ((size.batch + b) * size.heads + h) * size.length, size.length, inverse);
            for (int64_t t = 0; t < size.length; ++t) {
                Vector total = {};
                for (int d = 0; d < D; d += LANES) total += load(dY + t * D + d) * load(y.at(b, h, t) + d);
                mean[t] = sum(total);
            }
            std::fill(dQ, dQ + all, 0.0f);
            for (int64_t key = 0; key < size.blocks(); ++key)
                for (int64_t query = key; query < size.blocks(); ++query) {
                    const Part part{key == query, size.rows(query)};
                    scores<D>(S, Q + query * one, Kt + key * one, part);
                    scores<D>(dP, dY + query * one, Vt + key * one, part);
                    hide_future(S, part);
                    for (int i = 0; i < part.rows; ++i) {
                        const int64_t t = query * SIDE + i;
                        for (int j = i * SIDE; j < (i + 1) * SIDE; j += LANES) {
                            const Vector p = power_of_two((load(S + j) - highest[t]) * (scale * LOG2_E)) * inverse[t];
                            store(S + j, p);
                            store(dP + j, p * (load(dP + j) - mean[t]));
                        }
                    }
                    apply_transposed<D>(dV + key * one, S, dY + query * one, part);
                    apply_transposed<D>(dK + key * one, dP, Q + query * one, part);
                    apply<D>(dQ + query * one, dP, K + key * one, part);
                }
            write<D>(d_q, dQ, b, h, size, scale);
        }
        write<D>(d_k, dK, b, kv, size, scale);
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
