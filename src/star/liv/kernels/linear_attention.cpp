// Causal linear attention y_i = Σ_{j ≤ i} (q_i · k_j) v_j in float32, for head sizes that are whole registers.
//
// Chunk by chunk, with S = Σ k ⊗ v over the chunks before, Y = [Q | tril(Q Kᵀ)] [S ; V], then S += Kᵀ V. What is
// side by side here is so in memory, too: both parts of Y are one product. Scores and S stay in the cache. The rounding
// of each sum is taken back in the next (Kahan), so that errors of S do not grow with the length.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "tiles.h"

namespace {

// Tokens. The work is CHUNK · (h + m) / 2 within chunks and 2 h m between them, for each token: short chunks are cheap,
// as long as the sums of a tile of S are not loaded and stored more often than they are worth.
constexpr int CHUNK = 16;
constexpr int BLOCK = 8;           // rows that those of every tile divide
constexpr int64_t LINE = 16;       // floats of a line of the cache
constexpr int64_t NEAR = 1 << 17;  // floats of the sums that are worked on in turns: they stay in the second-level cache
constexpr int64_t TASKS = 4;       // for each thread at least, so that none waits long for the last
constexpr int64_t ASKED = 384;     // floats of a tensor that are asked for during a tile of a product
static_assert(CHUNK % LANES == 0 && CHUNK % BLOCK == 0);

// What comes next, asked for while this is computed: rows lie so far apart in memory that the machine foresees none.
class Ahead {
    struct {
        const float *row;
        int64_t time, size;
    } of[4];
    int64_t count, tensors = 0, tensor = 0, asked = 0;

  public:
    explicit Ahead(int64_t count) : count(count) {}

    void add(const Heads &heads, int64_t b, int64_t h, int64_t t, int64_t size) {
        of[tensors++] = {heads.at(b, h, t), heads.time, size};
    }

    void ask() {
        for (int64_t floats = 0; floats < ASKED && tensor < tensors;) {
            auto &now = of[tensor];
            for (int64_t i = 0; i < now.size; i += LINE) __builtin_prefetch(now.row + i);
            now.row += now.time;
            floats += now.size;
            if (++asked == count) asked = 0, ++tensor;
        }
    }
};

// Of V registers: 16 or 8 sums, enough that none waits for the one before.
constexpr int rows_of_tile(int V) { return std::min(BLOCK, (ACCUMULATORS == 24 ? 16 : 8) / V); }

// work(V) with V the widest tile, in registers, that divides the columns.
template <class Work> inline void by_width(int64_t columns, Work work) {
    if (WIDEST == 4 && columns % (4 * LANES) == 0) return work(std::integral_constant<int, WIDEST>{});
    if (columns % (2 * LANES) == 0) return work(std::integral_constant<int, 2>{});
    work(std::integral_constant<int, 1>{});
}

// Y [rows, columns] = A B for A [rows, depth + rows], lower triangular from column `depth` on, its rows `a` apart.
inline void product(float *Y, const float *A, int64_t a, const float *B, int64_t rows, int64_t columns, int64_t depth,
                    Ahead &ahead) {
    by_width(columns, [&](auto registers) {
        constexpr int V = decltype(registers)::value, R = rows_of_tile(V);
        for (int64_t column = 0; column < columns; column += V * LANES)
            for (int64_t r = 0; r < rows; r += R) {
                ahead.ask();
                float *first = Y + r * columns + column;
                tile<R, V, true>(first, columns, A + r * a, a, 1, B + column, columns, depth + r + R);
            }
    });
}

// S [rows, columns] += A [rows, CHUNK] B [CHUNK, columns]; excess [rows, columns]: what earlier sums were too large by.
inline void accumulate(float *S, float *excess, const float *A, const float *B, int64_t rows, int64_t columns,
                       Ahead &ahead) {
    by_width(columns, [&](auto registers) {
        constexpr int V = decltype(registers)::value, R = rows_of_tile(V), wide = V * LANES;
        alignas(Vector) float part[R * wide];
        for (int64_t column = 0; column < columns; column += wide)
            for (int64_t r = 0; r < rows; r += R) {
                ahead.ask();
                tile<R, V, true>(part, wide, A + r * CHUNK, CHUNK, 1, B + column, columns, CHUNK);
                for (int row = 0; row < R; ++row)
                    for (int i = 0; i < wide; i += LANES) {
                        const int64_t at = (r + row) * columns + column + i;
                        const Vector before = load(S + at), more = load(part + row * wide + i) - load(excess + at);
                        const Vector after = before + more;
                        store(excess + at, (after - before) - more);
                        store(S + at, after);
                    }
            }
    });
}

// The lower triangle of A [rows, depth] B [depth, CHUNK], zeros above it. C and A have rows `a` apart.
inline void scores(float *C, const float *A, int64_t a, const float *B, int64_t rows, int64_t depth, Ahead &ahead) {
    constexpr int R = rows_of_tile(2);
    for (int64_t r = 0; r < rows; r += R) {
        const int64_t wanted = (r + R - 1) / LANES + 1;
        int64_t v = 0;
        ahead.ask();
        for (; v + 2 <= wanted; v += 2)
            tile<R, 2, true>(C + r * a + v * LANES, a, A + r * a, a, 1, B + v * LANES, CHUNK, depth);
        if (v < wanted) tile<R, 1, true>(C + r * a + v * LANES, a, A + r * a, a, 1, B + v * LANES, CHUNK, depth);
    }
    for (int64_t i = 0; i < rows; ++i) std::fill(C + i * a + i + 1, C + i * a + CHUNK, 0.0f);
}

// Of the lanes of two registers taken in turns, one register: from lane FIRST of both on.
template <int FIRST, int... LANE> inline Vector in_turns(Vector x, Vector y, std::integer_sequence<int, LANE...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, y, (FIRST + LANE / 2 + LANE % 2 * LANES)...);
#else
    return __builtin_shuffle(x, y, Integers{(FIRST + LANE / 2 + LANE % 2 * LANES)...});
#endif
}

// to [j, i] = from [i, j] for LANES rows and columns. Each round rotates the bits of (row, lane) by one.
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

    // S [keys, values], V [CHUNK, values] below it, and the excess of S.
    int64_t state() const { return (2 * keys + CHUNK) * values; }

    // Heads that are worked on in turns, because their rows lie next to each other.
    int64_t group() const {
        const int64_t near = std::max<int64_t>(1, NEAR / state());
        const int64_t fair = threads == 1 ? heads : std::max<int64_t>(1, batch * heads / (TASKS * threads));
        return std::min({near, fair, heads});
    }

    Ahead ahead_of(int64_t b, int64_t h, int64_t t) const {
        Ahead ahead(std::min<int64_t>(CHUNK, length - t));
        if (t < length) {
            ahead.add(q, b, h, t, keys);
            ahead.add(v, b, h, t, values);
            ahead.add(k, b, h, t, keys);
            ahead.add(y, b, h, t, values);
        }
        return ahead;
    }

    // One chunk of one head; scratch: [Q | P] [CHUNK, keys + CHUNK], Kᵀ [keys, CHUNK] and Y [CHUNK, values].
    void chunk(float *scratch, float *S, int64_t b, int64_t h, int64_t t, Ahead ahead) const {
        const int64_t width = keys + CHUNK, unread = t == 0 ? keys : 0;  // S is 0 before the first chunk
        const int64_t count = std::min<int64_t>(CHUNK, length - t), rows = (count + BLOCK - 1) / BLOCK * BLOCK;
        float *Q = scratch, *K = Q + CHUNK * width, *Y = K + keys * CHUNK, *V = S + keys * values;
        read(Q, width, q.at(b, h, t), q.time, count, keys);
        read(V, values, v.at(b, h, t), v.time, count, values);
        read_transposed(K, k.at(b, h, t), k.time, count, keys);
        scores(Q + keys, Q, width, K, rows, keys, ahead);
        product(Y, Q + unread, width, S + unread * values, rows, values, keys - unread, ahead);
        for (int64_t i = 0; i < count; ++i) std::copy_n(Y + i * values, values, y.at(b, h, t + i));
        if (t + CHUNK < length) accumulate(S, V + CHUNK * values, K, V, keys, values, ahead);
    }

    void run(int64_t task) const {
        const int64_t groups = (heads + group() - 1) / group(), b = task / groups;
        const int64_t first = task % groups * group(), last = std::min(heads, first + group());
        Scratch states((last - first) * state()), scratch(CHUNK * (keys + CHUNK) + CHUNK * (keys + values));
        for (int64_t t = 0; t < length; t += CHUNK)
            for (int64_t h = first; h < last; ++h)
                chunk(scratch, states + (h - first) * state(), b, h, t,
                      h + 1 < last ? ahead_of(b, h + 1, t) : ahead_of(b, first, t + CHUNK));
    }
};

}  // namespace

extern "C" void linear_attention(const Pass *pass) {
    const int64_t groups = (pass->heads + pass->group() - 1) / pass->group();
    parallel(pass->batch * groups, pass->threads, [=](int64_t task) { pass->run(task); });
}
