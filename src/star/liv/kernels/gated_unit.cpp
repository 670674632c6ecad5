// swish(g) ⊙ u, forward and backward, in one pass over memory each.

#include <algorithm>

#include "vector.h"

namespace {

constexpr int64_t TASK = 1 << 14;  // numbers, about

// [rows, width], rows `stride` numbers apart.
template <class Number> struct Matrix {
    Number *data;
    int64_t stride;

    Number *at(int64_t row) const { return data + row * stride; }
};

struct Sizes {
    int64_t rows, width, threads;

    int64_t step() const { return std::max<int64_t>(1, TASK / width); }
    int64_t tasks() const { return (rows + step() - 1) / step(); }
    template <class Work> void each(int64_t task, Work work) const {
        const int64_t end = std::min(rows, (task + 1) * step());
        for (int64_t row = task * step(); row < end; ++row) work(row);
    }
};

template <class Number> struct Forward {
    Sizes size;
    Matrix<Number> gate, up, y;

    void run(int64_t task) const {
        size.each(task, [&](int64_t row) {
            const Number *gs = gate.at(row), *us = up.at(row);
            Number *ys = y.at(row);
            each_register(0, size.width, [&](int64_t i, int count) {
                const Vector g = load(gs + i, count);
                store(ys + i, g * sigmoid(g) * load(us + i, count), count);
            });
        });
    }
};

// Also gives y again, where there is room for it.
template <class Number> struct Backward {
    Sizes size;
    Matrix<Number> gate, up, d_y, y, d_gate, d_up;

    void run(int64_t task) const {
        size.each(task, [&](int64_t row) {
            const Number *gs = gate.at(row), *us = up.at(row), *ds = d_y.at(row);
            Number *ys = y.data ? y.at(row) : nullptr, *d_gs = d_gate.at(row), *d_us = d_up.at(row);
            each_register(0, size.width, [&](int64_t i, int count) {
                const Vector g = load(gs + i, count), u = load(us + i, count), d = load(ds + i, count);
                const Vector s = sigmoid(g), swish = g * s;
                if (ys) store(ys + i, swish * u, count);
                store(d_us + i, d * swish, count);
                store(d_gs + i, d * u * (s * (1.0f + g * (1.0f - s))), count);
            });
        });
    }
};

template <class Pass> void run(const Pass *pass) {
    parallel(pass->size.tasks(), pass->size.threads, [=](int64_t task) { pass->run(task); });
}

}  // namespace

extern "C" void gated_unit_forward(const Forward<float> *pass) { run(pass); }

extern "C" void gated_unit_backward(const Backward<float> *pass) { run(pass); }

extern "C" void gated_unit_forward_half(const Forward<Half> *pass) { run(pass); }

extern "C" void gated_unit_backward_half(const Backward<Half> *pass) { run(pass); }
