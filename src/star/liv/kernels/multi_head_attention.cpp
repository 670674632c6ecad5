// y = W_o [softmax(q_h k_hᵀ / √D) v_h]_h with q = W_q n, k = W_k n, v = W_v n for the tokens n of a stream, forward and
// backward, for weights that stay in the cache.
//
// A sequence after the other goes through norm and all products. These leave q, k and v head by head, turned by their rotary
// phases, as attention reads them, and take its outputs and gradients from where it leaves them.

#include "softmax_blocks.h"
#include "stream.h"

namespace {

constexpr int64_t PART = 128;  // tokens of a sequence whose products are formed together

struct Sizes {
    int64_t batch;
    Blocks tokens;
    int64_t inputs, outputs, heads, kv_heads, size, threads;

    int64_t mixed() const { return heads * size; }  // channels between attention and W_o
    int64_t rotary() const { return (heads + kv_heads) * size; }  // of q and k
    int64_t features() const { return (heads + 2 * kv_heads) * size; }
    int64_t weights() const { return features() * inputs + outputs * mixed(); }
    int64_t sums() const { return weights() + inputs; }  // of the gradients of all weights, those of the norm last
    int64_t head() const { return tokens.padded() * size; }  // floats of one
    // Sequences of a task, whatever the number of threads.
    int64_t step() const { return std::max((batch + MOST - 1) / MOST, (TASK + tokens.length - 1) / tokens.length); }
    int64_t tasks() const { return (batch + step() - 1) / step(); }

    // work(b) for each sequence of a task.
    template <class Work> void each(int64_t task, Work work) const {
        for (int64_t b = task * step(); b < std::min(batch, (task + 1) * step()); ++b) work(b);
    }

    // work(first, start, tokens) for each part of sequence b: its first token in the batch, and in the sequence.
    template <class Work> void each_part(int64_t b, Work work) const {
        for (int64_t start = 0; start < tokens.length; start += PART)
            work(b * tokens.length + start, start, std::min(PART, tokens.length - start));
    }

    // What comes behind the last token of these heads [·, padded, D].
    void clear_padding(float *from, int64_t count) const {
        for (float *one = from; one < from + count * head(); one += head())
            std::fill(one + tokens.length * size, one + head(), 0.0f);
    }
};

// Whole tiles of tokens.
inline int64_t tiled(int64_t count) { return (count + ROWS - 1) / ROWS * ROWS; }

// The rows of W_q, W_k and W_v, one below the other.
struct Maps {
    const float *q, *k, *v;

    const float *row(int64_t i, const Sizes &size) const {
        const int64_t queries = size.mixed(), both = size.rotary();
        return i < queries ? q + i * size.inputs : i < both ? k + (i - queries) * size.inputs
                                                            : v + (i - both) * size.inputs;
    }
};

struct Forward {
    Sizes size;
    Stream stream;
    Maps maps;
    const float *out;
    const float *turns;  // [padded, D] as complex numbers, or null
    float *features;     // [B, H + 2 kv heads, padded, D]: q and k turned, and v
    float *mixed;        // [B, L, H D]
    float *rows;         // [2, B, H, padded]: see Head
    float *y;

    template <int D> void run() const {
        const int64_t d = size.inputs, e = size.outputs, c = size.mixed(), f = size.features();
        Scratch weights(size.weights(), false);
        const Panels W{weights, d}, O{weights + f * d, c};  // [W_q ; W_k ; W_v]ᵀ and W_oᵀ
        fill(W, f, [&](int64_t k, int64_t i) { return maps.row(i, size)[k]; });
        fill(O, e, [&](int64_t k, int64_t i) { return out[i * c + k]; });
        parallel(size.tasks(), size.threads, [=](int64_t task) {
            Scratch scratch(PART * (d + c + e) + Head<D>::forward_room(size.tokens), false);
            float *rest = scratch, *rest_mixed = rest + PART * d, *Y = rest_mixed + PART * c, *room = Y + PART * e;
            size.each(task, [&](int64_t b) {
                float *F = features + b * (size.heads + 2 * size.kv_heads) * size.head();
                size.each_part(b, [&](int64_t first, int64_t start, int64_t count) {
                    const float *X = stream.read(first, count, tiled(count), d, rest);
                    product_of({X, d, 1}, W, tiled(count), f, [&](int64_t row, int64_t column, Vector value) {
                        const int64_t at = (start + row) * D + column % D;
                        if (turns && column < size.rotary()) value = turned(value, load(turns + at), 1);
                        store(F + column / D * size.head() + at, value);
                    });
                });
                size.clear_padding(F, size.heads + 2 * size.kv_heads);
                for (int64_t h = 0; h < size.heads; ++h)
                    head<D>(b, h).forward(mixed + b * size.tokens.length * c + h * D, c, room);
                size.each_part(b, [&](int64_t first, int64_t, int64_t count) {
                    const float *M = whole(mixed + first * c, count, c, rest_mixed, tiled(count));
                    const bool in_place = count == tiled(count);
                    product(in_place ? y + first * e : Y, e, {M, c, 1}, O, tiled(count), e);
                    if (!in_place) std::copy_n(Y, count * e, y + first * e);
                });
            });
        });
    }

    template <int D> Head<D> head(int64_t b, int64_t h) const {
        const int64_t padded = size.tokens.padded(), key = size.heads + h / (size.heads / size.kv_heads);
        const float *F = features + b * (size.heads + 2 * size.kv_heads) * size.head();
        float *highest = rows + (b * size.heads + h) * padded;
        return {size.tokens, F + h * size.head(), F + key * size.head(), F + (key + size.kv_heads) * size.head(),
                highest, highest + size.batch * size.heads * padded};
    }
};

// Gradients that nobody wants are null.
struct Backward {
    Forward way;  // what it read and kept; y is not looked at
    const float *d_total, *d_y;
    float *d_x, *d_norm, *d_q, *d_k, *d_v, *d_out;
    float *sums;  // [tasks, sums], zeros

    template <int D> void run() const {
        const Sizes &size = way.size;
        const int64_t d = size.inputs, e = size.outputs, c = size.mixed(), f = size.features();
        const int64_t padded = size.tokens.padded(), one = size.head(), total = size.sums();
        Scratch weights(size.weights(), false);
        const Panels O{weights, e}, back{weights + e * c, f};  // W_o, and [W_q ; W_k ; W_v]
        fill(O, c, [&](int64_t k, int64_t i) { return way.out[k * c + i]; });
        fill(back, d, [&](int64_t k, int64_t i) { return way.maps.row(k, size)[i]; });
        parallel(size.tasks(), size.threads, [=](int64_t task) {
            float *d_W = sums + task * total, *d_O = d_W + f * d;
            const int64_t groups = 2 * size.heads + 2 * size.kv_heads;
            const int64_t room_of_head = Head<D>::backward_room(size.tokens);
            Scratch scratch(groups * one + padded + PART * (d + std::max(d, e) + f) + room_of_head, false);
            float *dM = scratch, *dF = dM + size.heads * one, *mean = scratch + groups * one, *rest = mean + padded;
            float *X = rest + PART * std::max(d, e), *dB = X + PART * d, *room = dB + PART * f;
            size.each(task, [&](int64_t b) {
                size.each_part(b, [&](int64_t first, int64_t start, int64_t count) {
                    const float *dY = whole(d_y + first * e, count, e, rest, tiled(count));
                    product_of({dY, e, 1}, O, tiled(count), c, [&](int64_t row, int64_t column, Vector value) {
                        store(dM + column / D * one + (start + row) * D + column % D, value);
                    });
                    if (d_out) add_product(d_O, {dY, 1, e}, way.mixed + first * c, e, c, count);
                });
                size.clear_padding(dM, size.heads);
                float *dK = dF + size.heads * one, *dV = dK + size.kv_heads * one;
                std::fill(dK, dV + size.kv_heads * one, 0.0f);
                for (int64_t h = 0; h < size.heads; ++h) {
                    const int64_t kv = h / (size.heads / size.kv_heads);
                    std::fill(mean + size.tokens.length, mean + padded, 0.0f);
                    for (int64_t t = 0; t < size.tokens.length; ++t)
                        mean[t] = dot<D>(dM + h * one + t * D, way.mixed + (b * size.tokens.length + t) * c + h * D);
                    way.head<D>(b, h).backward(dM + h * one, mean, dF + h * one, dK + kv * one, dV + kv * one, room);
                }
                size.each_part(b, [&](int64_t first, int64_t start, int64_t count) {
                    by_token<D>(dB, dF, start, count);
                    if (d_q || d_k || d_v)
                        add_product(d_W, {dB, 1, f}, way.stream.again(first, count, count, d, X), f, d, count);
                    if (!d_x && !d_norm) return;
                    const bool in_place = count == tiled(count) && !way.stream.weight;
                    product(in_place ? d_x + first * d : rest, d, {dB, f, 1}, back, tiled(count), d);
                    if (way.stream.weight)
                        way.stream.back(first, count, d, rest, d_total, d_x, d_W + size.weights());
                    else if (!in_place)
                        std::copy_n(rest, count * d, d_x + first * d);
                });
            });
        });
        add_up(sums, size.tasks(), total);
        const float *d_W = sums;
        if (d_norm) std::copy_n(sums + size.weights(), d, d_norm);
        if (d_q) std::copy_n(d_W, c * d, d_q);
        if (d_k) std::copy_n(d_W + c * d, (size.rotary() - c) * d, d_k);
        if (d_v) std::copy_n(d_W + size.rotary() * d, (f - size.rotary()) * d, d_v);
        if (d_out) std::copy_n(d_W + f * d, e * c, d_out);
    }

  private:
    // A part of the gradients of q, k and v, [tokens, features], those of q and k turned back and divided by √D.
    template <int D> void by_token(float *to, const float *from, int64_t start, int64_t count) const {
        const Sizes &size = way.size;
        const float scale = 1 / std::sqrt(float(D));
        const int64_t f = size.features();
        for (int64_t column = 0; column < f; column += LANES) {
            const float *head = from + column / D * size.head() + start * D + column % D;
            const bool rotary = column < size.rotary();
            for (int64_t row = 0; row < count; ++row) {
                Vector value = load(head + row * D);
                if (rotary) value = scale * value;
                if (rotary && way.turns) value = turned(value, load(way.turns + (start + row) * D + column % D), -1);
                store(to + row * f + column, value);
            }
            for (int64_t row = count; row < tiled(count); ++row) store(to + row * f + column, Vector{});
        }
    }
};

template <class Pass> void run(const Pass &pass, int64_t size) {
    switch (size) {
    case 16: return pass.template run<16>();
    case 32: return pass.template run<32>();
    case 64: return pass.template run<64>();
    }
}

}  // namespace

extern "C" int64_t multi_head_attention_sums(const Sizes *size) { return size->tasks() * size->sums(); }

extern "C" void multi_head_attention_forward(const Forward *pass) { run(*pass, pass->size.size); }

extern "C" void multi_head_attention_backward(const Backward *pass) { run(*pass, pass->way.size.size); }
