// swish(g) ⊙ u, forward and backward, in one pass over memory each.

#include <algorithm>

#include "vector.h"

namespace {

constexpr int64_t TASK = 1 << 14;  // numbers

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + power_of_two(x * -LOG2_E)); }

struct Sizes {
    int64_t count, threads;

    int64_t tasks() const { return (count + TASK - 1) / TASK; }
    template <class Work> void each(int64_t task, Work work) const {
        each_register(task * TASK, std::min(TASK, count - task * TASK), work);
    }
};

struct Forward {
    Sizes size;
    const float *gate, *up;
    float *y;

    void run(int64_t task) const {
        size.each(task, [&](int64_t i, int count) {
            const Vector g = load(gate + i, count);
            store(y + i, g * sigmoid(g) * load(up + i, count), count);
        });
    }
};

struct Backward {
    Sizes size;
    const float *gate, *up, *d_y;
    float *d_gate, *d_up;

    void run(int64_t task) const {
        size.each(task, [&](int64_t i, int count) {
            const Vector g = load(gate + i, count), d = load(d_y + i, count), s = sigmoid(g);
            store(d_up + i, d * (g * s), count);
            store(d_gate + i, d * load(up + i, count) * (s * (1.0f + g * (1.0f - s))), count);
        });
    }
};

template <class Pass> void run(const Pass *pass) {
    parallel(pass->size.tasks(), pass->size.threads, [=](int64_t task) { pass->run(task); });
}

}  // namespace

extern "C" void gated_unit_forward(const Forward *pass) { run(pass); }

extern "C" void gated_unit_backward(const Backward *pass) { run(pass); }
