// y = W_d (swish(W_g n) ⊙ W_u n) for each token n of a stream, forward and backward, for weights that stay in the cache.
//
// A block of tokens after the other goes through norm and all products, and what lies between two of them stays in the
// cache as well. Nothing but the stream is kept for the way back: to compute g and u again takes no longer than to write
// and read them. Hidden channels are filled up with zeros to whole registers.

#include "stream.h"

namespace {

constexpr int FEWER = 4;  // rows of two tiles at once

struct Sizes {
    Tokens tokens;
    int64_t inputs, hidden, outputs;

    int64_t filled() const { return (hidden + LANES - 1) / LANES * LANES; }
    int64_t weights() const { return filled() * (2 * inputs + outputs); }
    int64_t sums() const { return weights() + inputs; }  // of the gradients of all weights, those of the norm last
};

// W_gᵀ and W_uᵀ [d, h], of each group of columns first those of W_g, then those of W_u.
struct Pairs {
    float *data;
    int64_t depth;

    Pairs(float *data, const Sizes &size, const float *gate, const float *up) : data(data), depth(size.inputs) {
        by_columns(size.filled(), [&](int64_t first, auto registers) {
            constexpr int64_t wide = decltype(registers)::value * LANES;
            const int64_t count = std::min(wide, size.hidden - first);  // others than zeros
            float *to = data + 2 * first * depth;
            for (int64_t k = 0; k < depth; ++k)
                for (const float *weight : {gate, up})
                    for (int64_t i = 0; i < wide; ++i) *to++ = i < count ? weight[(first + i) * depth + k] : 0;
        });
    }

    // done(row, register, g, u) for V registers of hidden channels from `column` on and each row of X [ROWS, d].
    template <int V, class Done> __attribute__((noinline)) void of(const float *X, int64_t column, Done done) const {
        for (int64_t first = 0; first < ROWS; first += FEWER) {
            const float *rows = X + first * depth, *W = data + 2 * column * depth;
            Vector gs[FEWER][V] = {}, us[FEWER][V] = {};
            for (int64_t k = 0; k < depth; ++k, W += 2 * V * LANES) {
                Vector g[V], u[V];
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) g[v] = load(W + v * LANES), u[v] = load(W + (V + v) * LANES);
#pragma GCC unroll 4
                for (int r = 0; r < FEWER; ++r) {
                    const float factor = rows[r * depth + k];
#pragma GCC unroll 4
                    for (int v = 0; v < V; ++v) gs[r][v] += factor * g[v], us[r][v] += factor * u[v];
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < FEWER; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) done(first + r, v, gs[r][v], us[r][v]);
        }
    }
};

struct Forward {
    Sizes size;
    Stream stream;
    const float *gate, *up, *down;
    float *y;

    void run() const {
        const int64_t h = size.filled(), d = size.inputs, e = size.outputs;
        Scratch weights(2 * h * d + h * e, false);
        const Pairs W(weights, size, gate, up);
        const Panels D{weights + 2 * h * d, h};  // W_dᵀ
        fill(D, e, [&](int64_t k, int64_t i) { return k < size.hidden ? down[i * size.hidden + k] : 0; });
        parallel(size.tokens.tasks(), size.tokens.threads, [=](int64_t task) {
            Scratch scratch(BLOCK * (d + h + e), false);
            float *rest = scratch, *P = rest + BLOCK * d, *Y = P + BLOCK * h;
            size.tokens.each(task, [&](int64_t first, int64_t count) {
                const float *X = stream.read(first, count, BLOCK, d, rest);
                by_columns(h, [&](int64_t column, auto registers) {
                    for (int64_t r = 0; r < BLOCK; r += ROWS)
                        W.of<decltype(registers)::value>(X + r * d, column, [=](int64_t row, int v, Vector g, Vector u) {
                            store(P + (r + row) * h + column + v * LANES, g * sigmoid(g) * u);
                        });
                });
                product(count == BLOCK ? y + first * e : Y, e, {P, h, 1}, D, BLOCK, e);
                if (count < BLOCK) std::copy_n(Y, count * e, y + first * e);
            });
        });
    }
};

// Gradients that nobody wants are null.
struct Backward {
    Sizes size;
    Stream stream;
    const float *gate, *up, *down, *d_total, *d_y;
    float *d_x, *d_norm, *d_gate, *d_up, *d_down;
    float *sums;  // [tasks, sums], zeros

    void run() const {
        const int64_t h = size.filled(), d = size.inputs, e = size.outputs, tasks = size.tokens.tasks();
        const int64_t total = size.sums();
        Scratch weights(2 * h * d + size.weights(), false);
        const Pairs W(weights, size, gate, up);
        const Panels D{weights + 2 * h * d, e}, back{D.data + e * h, 2 * h};  // W_d, and [W_g ; W_u]
        fill(D, h, [&](int64_t k, int64_t i) { return i < size.hidden ? down[k * size.hidden + i] : 0; });
        fill(back, d, [&](int64_t k, int64_t i) {
            const int64_t row = k < h ? k : k - h;
            return row < size.hidden ? (k < h ? gate : up)[row * d + i] : 0;
        });
        parallel(tasks, size.tokens.threads, [=](int64_t task) {
            float *d_W = sums + task * total, *d_D = d_W + 2 * h * d;
            Scratch scratch(BLOCK * (2 * d + e + 3 * h) + 2 * ROWS * WIDE * LANES, false);
            float *rest = scratch, *rest_y = rest + BLOCK * d, *d_X = rest_y + BLOCK * e;
            float *P = d_X + BLOCK * d, *d_G = P + BLOCK * h, *pairs = d_G + BLOCK * 2 * h;
            size.tokens.each(task, [&](int64_t first, int64_t count) {
                const float *X = stream.again(first, count, BLOCK, d, rest);
                const float *Y = whole(d_y + first * e, count, e, rest_y);
                by_columns(h, [&](int64_t column, auto registers) {
                    constexpr int V = decltype(registers)::value, wide = V * LANES;
                    for (int64_t r = 0; r < BLOCK; r += ROWS) {
                        W.of<V>(X + r * d, column, [=](int64_t row, int v, Vector g, Vector u) {
                            store(pairs + row * 2 * wide + v * LANES, g);
                            store(pairs + row * 2 * wide + wide + v * LANES, u);
                        });
                        tile_of<ROWS, V, true>(nullptr, 0, Y + r * e, e, 1, D.at(column), wide, e,
                                               [=](int row, int v, Vector d_p) {
                                                   const float *pair = pairs + row * 2 * wide + v * LANES;
                                                   const int64_t at = column + v * LANES;
                                                   gradients(load(pair), load(pair + wide), d_p,
                                                             P + (r + row) * h + at, d_G + (r + row) * 2 * h + at, h);
                                               });
                    }
                });
                if (d_down) add_product(d_D, {Y, 1, e}, P, e, h, BLOCK);
                if (d_gate || d_up) add_product(d_W, {d_G, 1, 2 * h}, X, 2 * h, d, BLOCK);
                if (!d_x && !d_norm) return;
                const bool in_place = count == BLOCK && !stream.weight;
                product(in_place ? d_x + first * d : d_X, d, {d_G, 2 * h, 1}, back, BLOCK, d);
                if (stream.weight)
                    stream.back(first, count, d, d_X, d_total, d_x, d_W + size.weights());
                else if (!in_place)
                    std::copy_n(d_X, count * d, d_x + first * d);
            });
        });
        add_up(sums, tasks, total);
        const float *d_W = sums, *d_D = sums + 2 * h * d;
        if (d_norm) std::copy_n(sums + size.weights(), d, d_norm);
        if (d_gate) std::copy_n(d_W, size.hidden * d, d_gate);
        if (d_up) std::copy_n(d_W + h * d, size.hidden * d, d_up);
        for (int64_t row = 0; d_down && row < e; ++row)
            std::copy_n(d_D + row * h, size.hidden, d_down + row * size.hidden);
    }

  private:
    // Of p = swish(g) ⊙ u: p, ∂L/∂g and, `h` behind it, ∂L/∂u.
    static inline void gradients(Vector g, Vector u, Vector d_p, float *P, float *d_G, int64_t h) {
        const Vector s = sigmoid(g), swish = g * s;
        store(P, swish * u);
        store(d_G, d_p * u * (s * (1.0f + g * (1.0f - s))));
        store(d_G + h, d_p * swish);
    }
};

}  // namespace

extern "C" int64_t gated_mlp_sums(const Sizes *size) { return size->tokens.tasks() * size->sums(); }

extern "C" void gated_mlp_forward(const Forward *pass) { pass->run(); }

extern "C" void gated_mlp_backward(const Backward *pass) { pass->run(); }
