// Rows of a residual stream: their root mean square norm with the addition before it, forward and backward, and how a
// kernel that is the norm and more reads them.

#pragma once

#include <cmath>

#include "maps.h"

// s = x + update (x itself where that is null), kept as `total`; y = w ⊙ s / rms(s). Returns 1 / rms(s).
template <class Update, class Number>
inline float norm_row(const float *x, const Update *update, const float *weight, float *total, Number *y, int64_t width,
                      float epsilon) {
    const float *s = update ? total : x;
    Vector squares = {};
    each_register(0, width, [&](int64_t d, int count) {
        Vector value = load(x + d, count);
        if (update) store(total + d, value += load(update + d, count), count);
        squares += value * value;
    });
    const float inverse = 1 / std::sqrt(sum(squares) / float(width) + epsilon);
    each_register(0, width, [&](int64_t d, int count) {
        store(y + d, load(s + d, count) * inverse * load(weight + d, count), count);
    });
    return inverse;
}

// With n = s / rms(s): ∂L/∂s = (w ⊙ ∂L/∂y - n mean(n ⊙ w ⊙ ∂L/∂y)) / rms(s), and d_total, what reaches s itself (nothing,
// where that is null); d_weight += n ⊙ ∂L/∂y. d_s may be d_y.
template <class Number>
inline void norm_row_back(const float *s, const float *weight, float inverse, const Number *d_y, const float *d_total,
                          float *d_s, float *d_weight, int64_t width) {
    Vector products = {};
    each_register(0, width, [&](int64_t d, int count) {
        const Vector product = load(s + d, count) * load(d_y + d, count);
        store(d_weight + d, load(d_weight + d, count) + product * inverse, count);
        products += product * load(weight + d, count);
    });
    const float mean = sum(products) * inverse * inverse / float(width);
    each_register(0, width, [&](int64_t d, int count) {
        const Vector gradient = load(d_y + d, count) * load(weight + d, count);
        Vector value = (gradient - load(s + d, count) * mean) * inverse;
        if (d_total) value += load(d_total + d, count);
        store(d_s + d, value, count);
    });
}

// What a LIV reads: tokens x [·, width] or, where there is a `weight`, their norm.
struct Stream {
    const float *x, *update, *weight;
    float *total, *inverse;  // [·, width], [·]
    float epsilon;

    // Rows of tokens from `first` on, and zeros up to `whole` rows: in place, if that may be, or in `to`.
    const float *read(int64_t first, int64_t count, int64_t whole, int64_t width, float *to) const {
        if (!weight) return ::whole(x + first * width, count, width, to, whole);
        for (int64_t t = 0, at = first * width; t < count; ++t, at += width)
            inverse[first + t] = norm_row(x + at, update ? update + at : nullptr, weight, update ? total + at : nullptr,
                                          to + t * width, width, epsilon);
        std::fill(to + count * width, to + whole * width, 0.0f);
        return to;
    }

    // The same on the way back, with x + update as `x`, and no update.
    const float *again(int64_t first, int64_t count, int64_t whole, int64_t width, float *to) const {
        if (!weight) return ::whole(x + first * width, count, width, to, whole);
        for (int64_t t = 0, at = first * width; t < count; ++t, at += width)
            each_register(0, width, [&](int64_t d, int lanes) {
                const Vector value = load(x + at + d, lanes) * inverse[first + t] * load(weight + d, lanes);
                store(to + t * width + d, value, lanes);
            });
        std::fill(to + count * width, to + whole * width, 0.0f);
        return to;
    }

    // From the gradients of those rows, [count, width], those of x; d_rows are overwritten where d_x is null.
    void back(int64_t first, int64_t count, int64_t width, float *d_rows, const float *d_total, float *d_x,
              float *d_weight) const {
        for (int64_t t = 0, at = first * width; t < count; ++t, at += width) {
            float *d_row = d_rows + t * width;
            norm_row_back(x + at, weight, inverse[first + t], d_row, d_total ? d_total + at : nullptr,
                          d_x ? d_x + at : d_row, d_weight, width);
        }
    }
};
