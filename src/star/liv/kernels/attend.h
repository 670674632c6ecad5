// What attention needs to decode a token, and what every operation is told about the token.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "products.h"

// `position` tokens have been seen. turned: see products.h; scores: [heads, room], room whole registers.
struct Program {
    int64_t batch, position, count, room;
    const void *const *records;
    float *turned, *scores;
};

inline float dot(const float *x, const float *y, int64_t size) {
    Vector sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
        for (int part = 0; part < 4; ++part) sums[part] += load(x + i + part * LANES) * load(y + i + part * LANES);
    each_register(i, size - i, [&](int64_t j, int count) { sums[0] += load(x + j, count) * load(y + j, count); });
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Rotary phases on all heads of x, in place: pairs times e^{i t ω}; phases: [tokens, head / 2] complex.
struct Rotate {
    int64_t kind, size, head;
    const float *phases;
    float *x;

    void run(const Program &program) const {
        const float *turn = phases + program.position * head;
        for (int64_t start = 0; start < program.batch * size; start += head)
            for (int64_t i = 0; i < head; i += 2) {
                float *pair = x + start + i;
                const float real = pair[0], imaginary = pair[1];
                pair[0] = real * turn[i] - imaginary * turn[i + 1];
                pair[1] = real * turn[i + 1] + imaginary * turn[i];
            }
    }
};

// Softmax attention of one token over what `keys` and `values` [length, kv heads, ·] hold, and over its own k and v, which
// are noted there; null: the cache holds them already. window: 0 for all of the past, else the caches are rings of the
// last `length` tokens, of which those of a band, or of a block, are seen: their order does not matter.
struct Attend {
    int64_t kind, heads, kv_heads, size, value_size, length, window, blocks;
    const float *q, *k, *v;
    float *keys, *values, *y;

    // Entries of a cache that lie side by side; the scores of the first one stand at `start`.
    struct Span {
        const float *keys, *values;
        int64_t start, count;
    };

    void run(const Program &program) const {
        for (int64_t b = 0; b < program.batch; ++b) {
            const int64_t key = kv_heads * size, value = kv_heads * value_size;
            float *past_keys = keys + b * length * key, *past_values = values + b * length * value;
            const float *new_key = k ? k + b * key : nullptr, *new_value = v ? v + b * value : nullptr;
            if (!window) {
                note(past_keys, new_key, program.position, key);
                note(past_values, new_value, program.position, value);
                const Span all_seen{past_keys, past_values, 0, program.position + 1};
                attend(program, b, &all_seen, 1, program.position + 1);
                continue;
            }
            int64_t count = blocks ? program.position % window : window - 1;
            count = std::min(count, std::min(program.position, length));
            const int64_t first = (program.position - count) % length, head = std::min(count, length - first);
            const Span spans[] = {{past_keys + first * key, past_values + first * value, 0, head},
                                  {past_keys, past_values, head, count - head},
                                  {new_key, new_value, count, 1}};
            attend(program, b, spans, 3, count + 1);
            note(past_keys, new_key, program.position % length, key);
            note(past_values, new_value, program.position % length, value);
        }
    }

    static void note(float *cache, const float *entry, int64_t place, int64_t size) {
        if (entry) std::memcpy(cache + place * size, entry, size * sizeof(float));
    }

    void attend(const Program &program, int64_t b, const Span *spans, int parts, int64_t count) const {
        float *scores = program.scores;
        const int64_t room = program.room;
        const float *queries = q + b * heads * size;
        float *output = y + b * heads * value_size;
        for (int part = 0; part < parts; ++part) {
            if (size == 4 * LANES)
                score<4>(queries, spans[part], scores, room);
            else if (size == 2 * LANES)
                score<2>(queries, spans[part], scores, room);
            else
                score<0>(queries, spans[part], scores, room);
        }
        for (int64_t h = 0; h < heads; ++h) normalise(scores + h * room, count);
        std::fill_n(output, heads * value_size, 0.0f);
        for (int part = 0; part < parts; ++part) {
            if (value_size == 4 * LANES)
                average<4>(output, spans[part], scores, room);
            else if (value_size == 2 * LANES)
                average<2>(output, spans[part], scores, room);
            else
                average<0>(output, spans[part], scores, room);
        }
    }

    // q · k for all heads and the entries of a span; V registers a head, 0: as many as there are.
    template <int V> void score(const float *queries, const Span &span, float *scores, int64_t room) const {
        const int64_t group = heads / kv_heads;
        const float *key = span.keys;
        for (int64_t t = span.start; t < span.start + span.count; ++t)
            for (int64_t h = 0; h < heads; h += group, key += size)
                for (int64_t own = h; own < h + group; ++own) {
                    const float *query = queries + own * size;
                    if (V == 0) {
                        scores[own * room + t] = dot(query, key, size);
                    } else {
                        Vector sums = {};
                        for (int i = 0; i < V; ++i) __builtin_prefetch(key + i * LANES + AHEAD);
                        for (int i = 0; i < V; ++i) sums += load(query + i * LANES) * load(key + i * LANES);
                        scores[own * room + t] = sum(sums);
                    }
                }
    }

    // softmax(scores / √size), in place.
    void normalise(float *row, int64_t count) const {
        const int64_t whole = (count + LANES - 1) / LANES * LANES;
        std::fill(row + count, row + whole, -std::numeric_limits<float>::infinity());
        Vector tops = load(row), sums = {};
        each_register(0, whole, [&](int64_t t, int) { tops = tops > load(row + t) ? tops : load(row + t); });
        const float factor = LOG2_E / std::sqrt(float(size)), top = largest(tops);
        each_register(0, whole, [&](int64_t t, int) {
            const Vector power = power_of_two((load(row + t) - top) * factor);
            store(row + t, power);
            sums += power;
        });
        const float total = 1 / sum(sums);
        each_register(0, whole, [&](int64_t t, int) { store(row + t, load(row + t) * total); });
    }

    // output += Σ_t p_t v_t; four entries at a time, so that outputs are read and written once for four.
    template <int V>
    void average(float *output, const Span &span, const float *scores, int64_t room) const {
        constexpr int TOGETHER = 4;
        const int64_t group = heads / kv_heads, stride = kv_heads * value_size;
        for (int64_t t = 0; t < span.count; t += TOGETHER) {
            const int entries = int(std::min<int64_t>(TOGETHER, span.count - t));
            for (int64_t own = 0; own < heads; ++own) {
                const float *from = span.values + t * stride + own / group * value_size;
                const float *weight = scores + own * room + span.start + t;
                const auto sum_up = [&](int64_t i, int lanes) {
                    Vector total = load(output + own * value_size + i, lanes);
                    for (int entry = 0; entry < entries; ++entry) __builtin_prefetch(from + entry * stride + i + AHEAD);
                    for (int entry = 0; entry < entries; ++entry)
                        total += weight[entry] * load(from + entry * stride + i, lanes);
                    store(output + own * value_size + i, total, lanes);
                };
                if (V == 0)
                    each_register(0, value_size, sum_up);
                else
                    for (int i = 0; i < V; ++i) sum_up(i * LANES, LANES);
            }
        }
    }
};

// S ← S + k ⊗ v, y = S q / (t √size) for token t of its sequence; S: [kv heads, size, value size].
struct LinearAttention {
    int64_t kind, heads, kv_heads, size, value_size;
    const float *q, *k, *v;
    float *total, *y;

    void run(const Program &program) const {
        const float factor = 1 / (float(program.position + 1) * std::sqrt(float(size)));
        for (int64_t row = 0; row < program.batch * kv_heads; ++row) {
            float *sums = total + row * size * value_size;
            for (int64_t i = 0; i < size; ++i)
                each_register(0, value_size, [&](int64_t j, int count) {
                    float *place = sums + i * value_size + j;
                    store(place, load(place, count) + k[row * size + i] * load(v + row * value_size + j, count), count);
                });
            for (int64_t own = row * (heads / kv_heads); own < (row + 1) * (heads / kv_heads); ++own)
                each_register(0, value_size, [&](int64_t j, int count) {
                    Vector value = {};
                    for (int64_t i = 0; i < size; ++i)
                        value += q[own * size + i] * load(sums + i * value_size + j, count);
                    store(y + own * value_size + j, value * factor, count);
                });
        }
    }
};
