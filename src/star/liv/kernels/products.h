// Products y = W x for a batch of 1 to 16 vectors, with W [outputs, inputs] as parameters are stored.
//
// What counts is that each weight is read once, from the start of W to its end. Up to three vectors are multiplied with
// several rows at a time; more are turned, so that the lanes of a register are the sequences of the batch.

#pragma once

#include <algorithm>

#include "vector.h"

constexpr int64_t AHEAD = 2048;  // floats between what is asked for and what is worked on
constexpr int LINE = 16;         // floats of a line of the cache
constexpr int FEW = 3, MOST = 16;  // sequences that rows are multiplied with as they lie, and at all

// What becomes of a product p: y = p, y = y + p or y = y - p.
inline void put(float *y, float product, int64_t sign) { *y = sign ? *y + float(sign) * product : product; }

// y[s, r] for R rows of W and S vectors x, each `inputs` long.
template <int R, int S>
inline void rows_of_few(const float *W, const float *x, float *y, int64_t inputs, int64_t outputs, int64_t sign) {
    Vector sums[R][S] = {};
    each_register(0, inputs, [&](int64_t i, int count) {
        Vector values[S];
        for (int s = 0; s < S; ++s) values[s] = load(x + s * inputs + i, count);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            __builtin_prefetch(W + r * inputs + i + AHEAD);
            const Vector weights = load(W + r * inputs + i, count);
            for (int s = 0; s < S; ++s) sums[r][s] += weights * values[s];
        }
    });
    for (int s = 0; s < S; ++s)
        for (int r = 0; r < R; ++r) put(y + s * outputs + r, sum(sums[r][s]), sign);
}

template <int S>
inline void product_of_few(const float *W, const float *x, float *y, int64_t inputs, int64_t outputs, int64_t sign) {
    constexpr int R = S == 1 ? 8 : 4;
    int64_t row = 0;
    for (; row + R <= outputs; row += R) rows_of_few<R, S>(W + row * inputs, x, y + row, inputs, outputs, sign);
    for (; row < outputs; ++row) rows_of_few<1, S>(W + row * inputs, x, y + row, inputs, outputs, sign);
}

// The same for `batch` vectors that fill V registers, turned: [inputs, V · LANES]. Even and odd inputs are summed apart,
// because a sum has to wait for the one before it.
template <int R, int V>
inline void rows_of_many(const float *W, const float *turned, float *y, int64_t inputs, int64_t outputs, int64_t sign,
                         int64_t batch) {
    Vector sums[2][R][V] = {};
    const auto add = [&](int64_t i, int part) {
        Vector values[V];
        for (int v = 0; v < V; ++v) values[v] = load(turned + (i * V + v) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sums[part][r][v] += W[r * inputs + i] * values[v];
    };
    int64_t i = 0;
    for (; i + LINE <= inputs; i += LINE) {
        for (int r = 0; r < R; ++r) __builtin_prefetch(W + r * inputs + i + AHEAD);
#pragma GCC unroll 16
        for (int next = 0; next < LINE; ++next) add(i + next, next % 2);
    }
    for (; i < inputs; ++i) add(i, 0);
    float found[R][V * LANES];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(found[r] + v * LANES, sums[0][r][v] + sums[1][r][v]);
    for (int64_t b = 0; b < batch; ++b)
        for (int r = 0; r < R; ++r) put(y + b * outputs + r, found[r][b], sign);
}

template <int V>
inline void product_of_many(const float *W, const float *x, float *y, int64_t inputs, int64_t outputs, int64_t sign,
                            int64_t batch, float *turned) {
    constexpr int R = V == 1 ? 8 : V == 2 ? 2 : 1;
    for (int64_t i = 0; i < inputs; ++i)
        for (int64_t b = 0; b < V * LANES; ++b) turned[i * V * LANES + b] = b < batch ? x[b * inputs + i] : 0;
    int64_t row = 0;
    for (; row + R <= outputs; row += R)
        rows_of_many<R, V>(W + row * inputs, turned, y + row, inputs, outputs, sign, batch);
    for (; row < outputs; ++row)
        rows_of_many<1, V>(W + row * inputs, turned, y + row, inputs, outputs, sign, batch);
}

// x [batch, inputs] → y [batch, outputs]; turned: room for inputs · 16 floats, where batch is above FEW.
inline void product(const float *W, const float *x, float *y, int64_t inputs, int64_t outputs, int64_t sign,
                    int64_t batch, float *turned) {
    switch (batch) {
        case 1: return product_of_few<1>(W, x, y, inputs, outputs, sign);
        case 2: return product_of_few<2>(W, x, y, inputs, outputs, sign);
        case FEW: return product_of_few<FEW>(W, x, y, inputs, outputs, sign);
    }
    if (batch <= LANES)
        product_of_many<1>(W, x, y, inputs, outputs, sign, batch, turned);
    else if (batch <= 2 * LANES)
        product_of_many<2>(W, x, y, inputs, outputs, sign, batch, turned);
    else
        product_of_many<MOST / LANES>(W, x, y, inputs, outputs, sign, batch, turned);
}
