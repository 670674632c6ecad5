// Causal softmax attention forward and backward, for head sizes that are whole registers.
//
// Each head is copied into arrays of floats without gaps; where positions are rotary, q and k are turned on the way, and
// their gradients back.

#include "attention_tiles.h"

namespace {

constexpr int AHEAD = 8, LINE = 64;  // tokens between what is asked for and what is read; bytes of a line of the cache

struct Sizes {
    int64_t batch, heads, kv_heads;
    Blocks tokens;
    int64_t size, threads;
    int64_t tiles;  // whether they may be used
};

// All tokens of one head in order, zeros up to `padded`, turned where there are `turns` [length, D].
template <int D, class Number>
void copy(float *to, const HeadsOf<Number> &from, int64_t b, int64_t h, const Sizes &size, int64_t padded,
          const float *turns = nullptr) {
    for (int64_t t = 0; t < size.tokens.length; ++t) {
        const Number *row = from.at(b, h, t);
        for (int d = 0; d < D; d += LINE / sizeof(Number)) __builtin_prefetch(row + AHEAD * from.time + d);
        for (int d = 0; d < D; d += LANES)
            store(to + t * D + d, turns ? turned(load(row + d), load(turns + t * D + d), 1) : load(row + d));
    }
    std::fill(to + size.tokens.length * D, to + padded * D, 0.0f);
}

// Turned back, and scaled.
template <int D, class Number>
void write(const HeadsOf<Number> &to, const float *from, int64_t b, int64_t h, const Sizes &size, float factor,
           const float *turns = nullptr) {
    for (int64_t t = 0; t < size.tokens.length; ++t) {
        Number *row = to.at(b, h, t);
        for (int d = 0; d < D; d += LINE / sizeof(Number)) __builtin_prefetch(row + AHEAD * to.time + d, 1);
        for (int d = 0; d < D; d += LANES) {
            const Vector value = factor * load(from + t * D + d);
            store(row + d, turns ? turned(value, load(turns + t * D + d), -1) : value);
        }
    }
}

template <class Number> struct Forward {
    Sizes size;
    HeadsOf<Number> q, k, v, y;
    const float *turns;  // [length, D] as complex numbers, or null
    float *rows;         // [2, B, H, L]: see Head

    template <int D, class One> void run(int64_t task) const {
        const int64_t padded = One::padded(size.tokens), one = padded * D, group = size.heads / size.kv_heads;
        const int64_t b = task / size.kv_heads, kv = task % size.kv_heads, length = size.tokens.length;
        Scratch scratch(3 * one + One::forward_room(size.tokens) + 2 * padded, false);
        float *K = scratch, *V = K + one, *Q = V + one, *highest = Q + one, *room = highest + 2 * padded;
        const One head{size.tokens, Q, K, V, highest, highest + padded};
        copy<D>(K, k, b, kv, size, padded, turns);
        copy<D>(V, v, b, kv, size, padded);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            copy<D>(Q, q, b, h, size, padded, turns);
            head.forward(y.at(b, h, 0), y.time, room);
            std::copy_n(head.highest, length, rows + (b * size.heads + h) * length);
            std::copy_n(head.inverse, length, rows + ((size.batch + b) * size.heads + h) * length);
        }
    }
};

template <class Number> struct Backward {
    Sizes size;
    HeadsOf<Number> q, k, v, y, d_y, d_q, d_k, d_v;
    const float *turns, *rows;

    template <int D, class One> void run(int64_t task) const {
        const int64_t padded = One::padded(size.tokens), one = padded * D, group = size.heads / size.kv_heads;
        const int64_t b = task / size.kv_heads, kv = task % size.kv_heads, length = size.tokens.length;
        const float scale = 1 / std::sqrt(float(D));
        Scratch scratch(7 * one + 3 * padded + One::backward_room(size.tokens), false);
        float *K = scratch, *V = K + one, *Q = V + one, *dY = Q + one, *dQ = dY + one, *dK = dQ + one, *dV = dK + one;
        float *highest = dV + one, *inverse = highest + padded, *mean = inverse + padded, *room = mean + padded;
        const One head{size.tokens, Q, K, V, highest, inverse};
        copy<D>(K, k, b, kv, size, padded, turns);
        copy<D>(V, v, b, kv, size, padded);
        std::fill(dK, dV + one, 0.0f);
        std::fill(highest, mean + padded, 0.0f);  // also behind the last token, where probabilities become 0
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            copy<D>(Q, q, b, h, size, padded, turns);
            copy<D>(dY, d_y, b, h, size, padded);
            std::copy_n(rows + (b * size.heads + h) * length, length, highest);
            std::copy_n(rows + ((size.batch + b) * size.heads + h) * length, length, inverse);
            for (int64_t t = 0; t < length; ++t) mean[t] = dot<D>(dY + t * D, y.at(b, h, t));
            head.backward(dY, mean, dQ, dK, dV, room);
            write<D>(d_q, dQ, b, h, size, scale, turns);
        }
        write<D>(d_k, dK, b, kv, size, scale, turns);
        write<D>(d_v, dV, b, kv, size, 1);
    }
};

template <int D, template <class> class Pass> void run(const Pass<float> *pass, int64_t task) {
    pass->template run<D, Head<D>>(task);
}

template <int D, template <class> class Pass> void run(const Pass<Half> *pass, int64_t task) {
#if defined(TILED)
    if constexpr (D >= EDGE)
        if (pass->size.tiles && tiles_usable()) return pass->template run<D, TiledHead<D>>(task);
#endif
    pass->template run<D, Head<D>>(task);
}

template <class Pass> void run(const Pass *pass) {
    const Sizes &size = pass->size;
    parallel(size.batch * size.kv_heads, size.threads, [=](int64_t task) {
        switch (size.size) {
        case 16: return run<16>(pass, task);
        case 32: return run<32>(pass, task);
        case 64: return run<64>(pass, task);
        }
    });
}

}  // namespace

extern "C" void attention_forward(const Forward<float> *pass) { run(pass); }

extern "C" void attention_backward(const Backward<float> *pass) { run(pass); }

extern "C" void attention_forward_half(const Forward<Half> *pass) { run(pass); }

extern "C" void attention_backward_half(const Backward<Half> *pass) { run(pass); }
