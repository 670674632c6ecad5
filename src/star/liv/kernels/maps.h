// Linear maps of many tokens with weights that stay in the cache: block after block of tokens, in tasks that each have
// their own sums of the weights' gradients. Channels are whole registers.

#pragma once

#include <algorithm>
#include <type_traits>

#include "tiles.h"

constexpr int64_t BLOCK = 64;   // tokens
constexpr int64_t TASK = 1024;  // tokens, at least, and at most MOST tasks: each has its own sums of weights' gradients
constexpr int64_t MOST = 64;
constexpr int ROWS = 8;       // of a tile
constexpr int WIDE = ACCUMULATORS / ROWS;  // registers of one, at most: 3 or 1

// work(column, V) for groups of V registers that lie beside each other, until all `columns` are done.
template <class Work> inline void by_columns(int64_t columns, Work work) {
    int64_t left = columns / LANES, column = 0;
    const auto take = [&](auto registers) {
        work(column, registers);
        column += decltype(registers)::value * LANES;
        left -= decltype(registers)::value;
    };
    while (left > 0)
        if (WIDE > 1 && (left == 2 || left == 4))
            take(std::integral_constant<int, WIDE - 1>{});
        else if (left >= WIDE)
            take(std::integral_constant<int, WIDE>{});
        else
            take(std::integral_constant<int, 1>{});
}

// A matrix [depth, columns] of which each group of registers is contiguous.
struct Panels {
    float *data;
    int64_t depth;

    float *at(int64_t column) const { return data + column * depth; }
};

// All of it, with the number in row k and column i from number(k, i).
template <class Number> inline void fill(Panels panels, int64_t columns, Number number) {
    by_columns(columns, [&](int64_t first, auto registers) {
        constexpr int64_t wide = decltype(registers)::value * LANES;
        float *to = panels.at(first);
        for (int64_t k = 0; k < panels.depth; ++k)
            for (int64_t i = 0; i < wide; ++i) *to++ = number(k, first + i);
    });
}

// A factor on the left: its rows are `down` apart, its columns `along`.
struct Left {
    const float *data;
    int64_t down, along;
};

// C [rows, columns] = A B, its rows `c` apart; `rows` a multiple of 8.
inline void product(float *C, int64_t c, Left A, Panels B, int64_t rows, int64_t columns) {
    by_columns(columns, [&](int64_t column, auto registers) {
        constexpr int V = decltype(registers)::value;
        for (int64_t r = 0; r < rows; r += ROWS)
            tile<ROWS, V, true>(C + r * c + column, c, A.data + r * A.down, A.down, A.along, B.at(column), V * LANES,
                             B.depth);
    });
}

// A B, handed on as done(row, column, register).
template <class Done> inline void product_of(Left A, Panels B, int64_t rows, int64_t columns, Done done) {
    by_columns(columns, [&](int64_t column, auto registers) {
        constexpr int V = decltype(registers)::value;
        for (int64_t r = 0; r < rows; r += ROWS)
            tile_of<ROWS, V, true>(nullptr, 0, A.data + r * A.down, A.down, A.along, B.at(column), V * LANES, B.depth,
                                   [&](int row, int v, Vector sum) { done(r + row, column + v * LANES, sum); });
    });
}

// C [rows, columns] += A B for B [depth, columns] as it lies.
inline void add_product(float *C, Left A, const float *B, int64_t rows, int64_t columns, int64_t depth) {
    by_columns(columns, [&](int64_t column, auto registers) {
        constexpr int V = decltype(registers)::value;
        for (int64_t r = 0; r < rows; r += ROWS)
            tile<ROWS, V, false>(C + r * columns + column, columns, A.data + r * A.down, A.down, A.along, B + column,
                              columns, depth);
    });
}

// How tokens are divided; it does not depend on the number of threads.
struct Tokens {
    int64_t count, threads;

    int64_t step() const {
        const int64_t blocks = (count + MOST * BLOCK - 1) / (MOST * BLOCK);
        return std::max(TASK, blocks * BLOCK);
    }
    int64_t tasks() const { return (count + step() - 1) / step(); }

    // work(first, tokens) for each block of a task.
    template <class Work> void each(int64_t task, Work work) const {
        const int64_t end = std::min(count, (task + 1) * step());
        for (int64_t first = task * step(); first < end; first += BLOCK) work(first, std::min(BLOCK, end - first));
    }
};

// `block` rows in place, or a copy that zeros fill up.
inline const float *whole(const float *rows, int64_t count, int64_t width, float *copy, int64_t block = BLOCK) {
    if (count == block) return rows;
    std::copy_n(rows, count * width, copy);
    std::fill(copy + count * width, copy + block * width, 0.0f);
    return copy;
}

// The sums of `count` floats of each task, in the first task's.
inline void add_up(float *sums, int64_t tasks, int64_t count) {
    for (int64_t task = 1; task < tasks; ++task)
        each_register(0, count, [&](int64_t i, int n) {
            store(sums + i, load(sums + i, n) + load(sums + task * count + i, n), n);
        });
}
