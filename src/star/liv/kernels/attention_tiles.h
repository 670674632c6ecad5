// Causal softmax attention of one head, forward and backward, with products of halves on the tiles of a CPU (AMX), for
// head sizes D of 32 and more.
//
// A tile of floats [16, 16] grows by the product of two of halves, [16, 32] and [32, 16], of which the second has its rows
// in pairs: (2 i, j) and (2 i + 1, j) lie side by side. Scores lie with queries along a register, [keys, queries], as in
// softmax_blocks.h, so that pairs of keys are pairs of registers. What is summed up for queries, outputs and their
// gradients, is turned for the same reason: [D, queries]. Probabilities and gradients of scores are rounded to halves
// before they are multiplied, sums are floats.

#pragma once

#include "softmax_blocks.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__AVX512BF16__) && defined(__linux__)
#define TILED
#include <sys/syscall.h>
#include <unistd.h>

constexpr int TILE = 16, EDGE = 32;         // rows of a tile, and tokens of a block
constexpr int64_t WORD = TILE * EDGE;       // halves of a tile
constexpr int TOGETHER = 4;                 // blocks of keys whose probabilities are formed together

// Whether the system lets this process use tiles; asks for it, once.
inline bool tiles_usable() {
    constexpr long REQUEST = 0x1023, DATA = 18;
    static const bool usable = syscall(SYS_arch_prctl, REQUEST, DATA) == 0;
    return usable;
}

// While it lives, this thread's eight tiles have 16 rows of 64 bytes.
class Configured {
    struct alignas(64) Configuration {
        uint8_t palette = 1, start = 0, rest[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };

  public:
    Configured() {
        static const Configuration configuration;  // not on the stack: compilers see but the first bytes read
        _tile_loadconfig(&configuration);
    }
    ~Configured() { _tile_release(); }
    Configured(const Configured &) = delete;
};

// A factor of halves: distances between its rows, between its two groups of tiles and between steps of 32 along the sum.
struct Factor {
    const Half *data;
    int64_t row, next, step;
};

// C [32, 32], rows `c` apart, = (FRESH) or += A [32, 32 steps] B.
template <bool FRESH> inline void multiply(float *C, int64_t c, Factor A, Factor B, int64_t steps) {
    asm volatile("" ::: "memory");  // what tiles load has been written
    float *below = C + TILE * c;
    if (FRESH) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, C, 4 * c);
        _tile_loadd(1, C + TILE, 4 * c);
        _tile_loadd(2, below, 4 * c);
        _tile_loadd(3, below + TILE, 4 * c);
    }
    for (int64_t step = 0; step < steps; ++step, A.data += A.step, B.data += B.step) {
        _tile_loadd(4, A.data, 2 * A.row);
        _tile_loadd(5, A.data + A.next, 2 * A.row);
        _tile_loadd(6, B.data, 2 * B.row);
        _tile_loadd(7, B.data + B.next, 2 * B.row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, C, 4 * c);
    _tile_stored(1, C + TILE, 4 * c);
    _tile_stored(2, below, 4 * c);
    _tile_stored(3, below + TILE, 4 * c);
    asm volatile("" ::: "memory");
}

inline Words halves_of(Vector value) { return (Words)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)value)); }

// Two rows as one of pairs.
inline Vector paired(Vector even, Vector odd) { return (Vector)(halves_of(even) | halves_of(odd) << 16); }

inline float *words(Half *halves) { return reinterpret_cast<float *>(halves); }

inline void store_half(Half *to, Vector value) {
    const auto halves = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(to, &halves, sizeof halves);
}

// A block of a head, [EDGE, D] floats, as the products take it.
template <int D> struct Packed {
    static constexpr int64_t BLOCK = EDGE * D;  // halves

    // [EDGE, D]: a left factor whose sum runs over D.
    static void rows(Half *to, const float *from) {
        for (int64_t i = 0; i < BLOCK; i += LANES) store_half(to + i, load(from + i));
    }

    // [2, D / 2, TILE] pairs: a right factor [D, EDGE].
    static void turned(Half *to, const float *from) {
        for (int t = 0; t < EDGE; t += TILE)
            for (int d = 0; d < D; d += EDGE) {
                Vector pairs[LANES];
                for (int r = 0; r < TILE; ++r) {
                    const float *row = from + (t + r) * D + d;
                    const auto both = _mm512_cvtne2ps_pbh((__m512)load(row + LANES), (__m512)load(row));
                    std::memcpy(&pairs[r], &both, sizeof both);
                }
                transpose_registers(pairs);
                for (int r = 0; r < TILE; ++r) store(words(to + t * D + (d / 2 + r) * EDGE), pairs[r]);
            }
    }

    // [D / 16, EDGE / 2, TILE] pairs: a right factor [EDGE, D].
    static void paired_rows(Half *to, const float *from) {
        for (int d = 0; d < D; d += TILE)
            for (int i = 0; i < EDGE; i += 2)
                store(words(to + d * EDGE + i * TILE), paired(load(from + i * D + d), load(from + (i + 1) * D + d)));
    }

    // [D, EDGE]: a left factor whose sum runs over the tokens.
    static void columns(Half *to, const float *from) {
        for (int d = 0; d < D; d += TILE) {
            Vector pairs[LANES];
            for (int i = 0; i < EDGE; i += 2) pairs[i / 2] = paired(load(from + i * D + d), load(from + (i + 1) * D + d));
            transpose_registers(pairs);
            for (int r = 0; r < TILE; ++r) store(words(to + (d + r) * EDGE), pairs[r]);
        }
    }

    static Factor by_rows(const Half *at) { return {at, D, TILE * D, EDGE}; }
    static Factor by_turned(const Half *at) { return {at, EDGE, TILE * D, WORD}; }
    static Factor by_paired(const Half *at, int d) { return {at + d * EDGE, EDGE, WORD, 0}; }
    static Factor by_columns(const Half *at, int d) { return {at + d * EDGE, EDGE, WORD, BLOCK}; }
};

// [EDGE, EDGE] halves: a left factor by rows, and a right one by pairs of rows.
inline Factor square(const Half *at) { return {at, EDGE, WORD, 0}; }
inline Factor square_in_pairs(const Half *at) { return {at, EDGE, WORD, 2 * WORD}; }

// `Head` of softmax_blocks.h on tiles: its arrays are padded to whole blocks of 32 tokens.
template <int D> struct TiledHead {
    Blocks tokens;
    const float *Q, *K, *V;
    float *highest, *inverse;

    using Pack = Packed<D>;
    static constexpr int64_t ONE = EDGE * D;
    static constexpr int V_LANES = EDGE / LANES;  // registers of a block of queries

    static int64_t blocks(const Blocks &tokens) { return (tokens.length + EDGE - 1) / EDGE; }
    static int64_t padded(const Blocks &tokens) { return blocks(tokens) * EDGE; }
    // Floats of `room`: a float is two halves.
    static int64_t forward_room(const Blocks &tokens) {
        return padded(tokens) * D + ONE / 2 + ONE + TOGETHER * EDGE * EDGE * 3 / 2;
    }
    static int64_t backward_room(const Blocks &tokens) {
        return 3 * padded(tokens) * D + 3 * ONE / 2 + 2 * EDGE * EDGE + 3 * EDGE * EDGE / 2;
    }

    template <class Number> void forward(Number *y, int64_t down, float *room) const {
        const Configured tiles;
        const int64_t count = blocks(tokens), total = padded(tokens) * D;
        const float scale = LOG2_E / std::sqrt(float(D));
        Half *keys = reinterpret_cast<Half *>(room), *values = keys + total, *queries = values + total;
        float *Y = room + total + ONE / 2, *S = Y + ONE;
        Half *P = reinterpret_cast<Half *>(S + TOGETHER * EDGE * EDGE);
        for (int64_t block = 0; block < count; ++block) {
            Pack::rows(keys + block * ONE, K + block * ONE);
            Pack::columns(values + block * ONE, V + block * ONE);
        }
        for (int64_t query = 0; query < count; ++query) {
            Pack::turned(queries, Q + query * ONE);
            Vector sums[V_LANES] = {}, tops[V_LANES];
            for (Vector &top : tops) top = all(-LARGEST);  // finite, so that -∞ is far below it
            std::fill(Y, Y + ONE, 0.0f);
            for (int64_t first = 0; first <= query; first += TOGETHER) {
                const int some = int(std::min<int64_t>(TOGETHER, query + 1 - first));
                for (int block = 0; block < some; ++block)
                    multiply<true>(S + block * EDGE * EDGE, EDGE, Pack::by_rows(keys + (first + block) * ONE),
                                   Pack::by_turned(queries), D / EDGE);
                const bool diagonal = first + some > query;
                for (int v = 0; v < V_LANES; ++v) {
                    if (diagonal) hide(S + (some - 1) * EDGE * EDGE, v);
                    const float *column = S + v * LANES;
                    Vector top = tops[v];
                    for (int j = 0; j < some * EDGE; ++j) {
                        const Vector score = load(column + j * EDGE);
                        top = score > top ? score : top;
                    }
                    if (first) {
                        const Vector factor = power_of_two((tops[v] - top) * scale);
                        sums[v] *= factor;
                        for (int d = 0; d < D; ++d) {
                            float *at = Y + d * EDGE + v * LANES;
                            store(at, load(at) * factor);
                        }
                    }
                    tops[v] = top;
                    for (int j = 0; j < some * EDGE; j += 2) {
                        const Vector even = power_of_two((load(column + j * EDGE) - top) * scale);
                        const Vector odd = power_of_two((load(column + (j + 1) * EDGE) - top) * scale);
                        sums[v] += even + odd;
                        store(words(P + j / EDGE * 2 * WORD + v * WORD + j % EDGE * TILE), paired(even, odd));
                    }
                }
                for (int d = 0; d < D; d += EDGE)
                    multiply<false>(Y + d * EDGE, EDGE, Pack::by_columns(values + first * ONE, d), square_in_pairs(P), some);
            }
            for (int v = 0; v < V_LANES; ++v) {
                const Vector inverses = 1.0f / sums[v];
                store(highest + query * EDGE + v * LANES, tops[v]);
                store(inverse + query * EDGE + v * LANES, inverses);
                const int64_t token = query * EDGE + v * LANES;
                by_query(Y + v * LANES, int(std::min<int64_t>(LANES, tokens.length - token)), inverses,
                         [=](int i, int d, Vector value) { store(y + (token + i) * down + d, value); });
            }
        }
    }

    void backward(const float *dY, const float *mean, float *dQ, float *dK, float *dV, float *room) const {
        const Configured tiles;
        const int64_t count = blocks(tokens), total = padded(tokens) * D;
        const float scale = LOG2_E / std::sqrt(float(D));
        Half *turned_q = reinterpret_cast<Half *>(room), *paired_q = turned_q + total, *turned_dy = paired_q + total;
        Half *paired_dy = turned_dy + total;
        float *turned_dq = room + 2 * total;
        Half *key_rows = reinterpret_cast<Half *>(turned_dq + total), *value_rows = key_rows + ONE;
        Half *key_columns = value_rows + ONE;
        float *S = turned_dq + total + 3 * ONE / 2, *dP = S + EDGE * EDGE;
        Half *p = reinterpret_cast<Half *>(dP + EDGE * EDGE), *ds = p + EDGE * EDGE, *ds_pairs = ds + EDGE * EDGE;
        for (int64_t at = 0; at < total; at += ONE) {
            Pack::turned(turned_q + at, Q + at);
            Pack::paired_rows(paired_q + at, Q + at);
            Pack::turned(turned_dy + at, dY + at);
            Pack::paired_rows(paired_dy + at, dY + at);
        }
        std::fill(turned_dq, turned_dq + total, 0.0f);
        for (int64_t key = 0; key < count; ++key) {
            Pack::rows(key_rows, K + key * ONE);
            Pack::rows(value_rows, V + key * ONE);
            Pack::columns(key_columns, K + key * ONE);
            for (int64_t query = key; query < count; ++query) {
                const int64_t at = query * ONE;
                multiply<true>(S, EDGE, Pack::by_rows(key_rows), Pack::by_turned(turned_q + at), D / EDGE);
                multiply<true>(dP, EDGE, Pack::by_rows(value_rows), Pack::by_turned(turned_dy + at), D / EDGE);
                for (int v = 0; v < V_LANES; ++v) {
                    const int64_t token = query * EDGE + v * LANES;
                    const Vector high = load(highest + token), inv = load(inverse + token), average = load(mean + token);
                    if (key == query) hide(S, v);
                    const auto gradient = [=](int j) {
                        const int place = j * EDGE + v * LANES;
                        const Vector one = power_of_two((load(S + place) - high) * scale) * inv;
                        store_half(p + place, one);
                        const Vector slope = one * (load(dP + place) - average);
                        store_half(ds + place, slope);
                        return slope;
                    };
                    for (int j = 0; j < EDGE; j += 2) {
                        const Vector even = gradient(j);
                        store(words(ds_pairs + v * WORD + j * TILE), paired(even, gradient(j + 1)));
                    }
                }
                for (int d = 0; d < D; d += EDGE) {
                    multiply<false>(dV + key * ONE + d, D, square(p), Pack::by_paired(paired_dy + at, d), 1);
                    multiply<false>(dK + key * ONE + d, D, square(ds), Pack::by_paired(paired_q + at, d), 1);
                    multiply<false>(turned_dq + at + d * EDGE, EDGE, Pack::by_columns(key_columns, d),
                                    square_in_pairs(ds_pairs), 1);
                }
            }
        }
        for (int64_t at = 0; at < total; at += ONE)
            for (int v = 0; v < V_LANES; ++v)
                by_query(turned_dq + at + v * LANES, LANES, all(1), [=](int i, int d, Vector value) {
                    store(dQ + at + (v * LANES + i) * D + d, value);
                });
    }

  private:
    // Scores of a block on the diagonal that a register of queries does not see become -∞.
    static void hide(float *S, int v) {
        for (int j = v * LANES + 1; j < EDGE; ++j) {
            float *at = S + j * EDGE + v * LANES;
            store(at, sees(v, j) ? load(at) : all(-INFINITY));
        }
    }

    // done(query, d, register of D) for the first `count` queries of a register's [D, EDGE], times their factors.
    template <class Done> static void by_query(const float *from, int count, Vector factors, Done done) {
        for (int d = 0; d < D; d += LANES) {
            Vector rows[LANES];
            for (int r = 0; r < LANES; ++r) rows[r] = load(from + (d + r) * EDGE) * factors;
            transpose_registers(rows);
            for (int i = 0; i < count; ++i) done(i, d, rows[i]);
        }
    }
};
#endif
