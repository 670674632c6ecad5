// How the selective scan is cut: tasks of channels of one sequence, chunks of time, blocks of channels, and where their
// tensors and states lie meanwhile.

#pragma once

#include <algorithm>
#include <type_traits>

#include "vector.h"

namespace {

struct Sizes {
    int64_t batch, length, channels, states;
    int64_t chunk;  // time steps
    int64_t group;  // channels of one task
    int64_t threads;
    int64_t raw;  // whether softplus is still to be taken of Δ
};

// `count` columns of a chunk of rows, `width` of them in memory: in place, or copied and filled up with zeros.
struct Tile {
    float *data;
    int64_t stride;

    Tile(const Rows &rows, int64_t b, int64_t start, int64_t steps, int64_t column, int64_t count, int64_t width,
         float *copy, bool reading = true) {
        data = rows.data ? rows.at(b, start) + column : nullptr;
        stride = rows.time;
        if (count == width || !data) return;
        if (reading)
            for (int64_t t = 0; t < steps; ++t) {
                std::memcpy(copy + t * width, data + t * stride, count * sizeof(float));
                std::memset(copy + t * width + count, 0, (width - count) * sizeof(float));
            }
        data = copy;
        stride = width;
    }

    float *at(int64_t t, int v) const { return data + t * stride + v * LANES; }

    void write_back(const Rows &rows, int64_t b, int64_t start, int64_t steps, int64_t column, int64_t count) const {
        if (!rows.data || rows.at(b, start) + column == data) return;
        for (int64_t t = 0; t < steps; ++t)
            std::memcpy(rows.at(b, start + t) + column, data + t * stride, count * sizeof(float));
    }
};

// Fetches what the next block of channels needs at the same time: rows are too far apart to be fetched by the processor
// on its own.
inline void ahead(const Tile &tile, int64_t t, int64_t width) {
    for (int64_t j = 0; j < width; j += LANES) __builtin_prefetch(tile.data + t * tile.stride + width + j);
}

// body(block of V registers, first column, columns) over the columns [first, last): two registers at a time, then one.
template <class Body> void blocks(int64_t first, int64_t last, Body body) {
    while (last - first >= 2 * LANES) {
        body(std::integral_constant<int, 2>{}, first, int64_t(2 * LANES));
        first += 2 * LANES;
    }
    while (first < last) {
        const int64_t count = last - first < LANES ? last - first : LANES;
        body(std::integral_constant<int, 1>{}, first, count);
        first += count;
    }
}

// Rows [n, V registers] of a block: in registers for the whole chunk where their number `N` is known to the compiler
// (few states, whose chains of loads and stores would take longer than their arithmetic), else in memory.
template <int V, int N> class Held {
    float *memory;
    Vector rows[N ? N : 1][V];

  public:
    explicit Held(float *memory) : memory(memory) {
        for (int n = 0; n < N; ++n)
            for (int v = 0; v < V; ++v) rows[n][v] = load(memory + (n * V + v) * LANES);
    }
    Vector get(int64_t n, int v) const { return N ? rows[n][v] : load(memory + (n * V + v) * LANES); }
    void set(int64_t n, int v, Vector value) {
        if (N)
            rows[n][v] = value;
        else
            store(memory + (n * V + v) * LANES, value);
    }
    void write_back() const {
        for (int n = 0; n < N; ++n)
            for (int v = 0; v < V; ++v) store(memory + (n * V + v) * LANES, rows[n][v]);
    }
};

// body(N) with the number of states as a constant where they are held in registers, else 0.
template <class Body> void with_states(int64_t states, Body body) {
    switch (states) {
        case 1: return body(std::integral_constant<int, 1>{});
        case 2: return body(std::integral_constant<int, 2>{});
        default: return body(std::integral_constant<int, 0>{});
    }
}

// [N, D] for the channels [first, last) in the order of work: block after block, each [N, width], zeros at the end.
struct Packed {
    int64_t states, channels, first, last;

    int64_t size() const { return (last - first + LANES - 1) / LANES * LANES * states; }
    int64_t at(int64_t column) const { return (column - first) * states; }

    template <class Move> void each(Move move) const {
        blocks(first, last, [&](auto registers, int64_t column, int64_t count) {
            for (int64_t n = 0; n < states; ++n)
                move(at(column) + n * registers * LANES, n * channels + column, count);
        });
    }
    void pack(float *to, const float *from, float factor = 1) const {
        each([=](int64_t packed, int64_t plain, int64_t count) {
            for (int64_t j = 0; j < count; ++j) to[packed + j] = factor * from[plain + j];
        });
    }
    void unpack(float *to, const float *from) const {
        each([=](int64_t packed, int64_t plain, int64_t count) {
            for (int64_t j = 0; j < count; ++j) to[plain + j] = from[packed + j];
        });
    }
};

// One task: the channels of a group in one sequence.
struct Task {
    int64_t batch;
    Packed packed;
    int64_t place;  // of its states within all of one moment

    Task(const Sizes &size, int64_t number) {
        const int64_t group = number % groups(size);
        batch = number / groups(size);
        packed = {size.states, size.channels, group * size.group,
                  std::min((group + 1) * size.group, size.channels)};
        place = batch * moment(size) / size.batch + packed.first * size.states;
    }
    static int64_t groups(const Sizes &size) { return (size.channels + size.group - 1) / size.group; }
    static int64_t moment(const Sizes &size) {
        return size.batch * ((size.channels + LANES - 1) / LANES * LANES) * size.states;
    }
};

}  // namespace
