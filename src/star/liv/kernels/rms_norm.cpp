// Root mean square norm of the rows of a residual stream, with the addition before it, forward and backward.

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace {

constexpr int64_t TASK = 256;  // rows; what a task sums up does not depend on the number of threads

struct Sizes {
    int64_t rows, width, threads;

    int64_t tasks() const { return (rows + TASK - 1) / TASK; }
    int64_t end(int64_t task) const { return std::min(rows, (task + 1) * TASK); }
};

struct Forward {
    Sizes size;
    const float *x, *update, *weight;  // no update: null
    float *total, *y, *inverse;        // x + update, the normed rows, 1 / root of each row's mean square
    float epsilon;

    void run(int64_t task) const {
        for (int64_t row = task * TASK; row < size.end(task); ++row) {
            const int64_t start = row * size.width;
            const float *source = x + start;
            Vector squares = {};
            if (update) {
                source = total + start;
                each_register(0, size.width, [&](int64_t d, int count) {
                    const Vector value = load(x + start + d, count) + load(update + start + d, count);
                    store(total + start + d, value, count);
                    squares += value * value;
                });
            } else {
                each_register(0, size.width, [&](int64_t d, int count) {
                    const Vector value = load(source + d, count);
                    squares += value * value;
                });
            }
            const float factor = 1 / std::sqrt(sum(squares) / float(size.width) + epsilon);
            inverse[row] = factor;
            each_register(0, size.width, [&](int64_t d, int count) {
                store(y + start + d, load(source + d, count) * factor * load(weight + d, count), count);
            });
        }
    }
};

// With n = x / rms: ∂L/∂x = (w ∂L/∂y - n mean(n w ∂L/∂y)) / rms + ∂L/∂total, ∂L/∂w = Σ n ∂L/∂y.
struct Backward {
    Sizes size;
    const float *x, *weight, *inverse, *d_y, *d_total;  // nothing reads the sum but the norm: d_total null
    float *d_x, *d_weight;                              // d_weight: [tasks, width], zeros

    void run(int64_t task) const {
        float *d_w = d_weight + task * size.width;
        for (int64_t row = task * TASK; row < size.end(task); ++row) {
            const int64_t start = row * size.width;
            const float factor = inverse[row];
            Vector products = {};
            each_register(0, size.width, [&](int64_t d, int count) {
                const Vector value = load(x + start + d, count), gradient = load(d_y + start + d, count);
                const Vector product = value * gradient;
                store(d_w + d, load(d_w + d, count) + product * factor, count);
                products += product * load(weight + d, count);
            });
            const float mean = sum(products) * factor * factor / float(size.width);
            each_register(0, size.width, [&](int64_t d, int count) {
                const Vector gradient = load(d_y + start + d, count) * load(weight + d, count);
                Vector d_value = (gradient - load(x + start + d, count) * mean) * factor;
                if (d_total) d_value += load(d_total + start + d, count);
                store(d_x + start + d, d_value, count);
            });
        }
    }
};

}  // namespace

extern "C" void rms_norm_forward(const Forward *pass) {
    parallel(pass->size.tasks(), pass->size.threads, [=](int64_t task) { pass->run(task); });
}

extern "C" int64_t rms_norm_tasks(const Sizes *size) { return size->tasks(); }

extern "C" void rms_norm_backward(const Backward *pass) {
    parallel(pass->size.tasks(), pass->size.threads, [=](int64_t task) { pass->run(task); });
}
