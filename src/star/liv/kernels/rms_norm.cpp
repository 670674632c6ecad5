// Root mean square norm of the rows of a residual stream, with the addition before it, forward and backward.
//
// What is added to the stream, and the norm, may be halves: what maps of halves give and take.

#include "stream.h"

namespace {

constexpr int64_t ROWS_OF_TASK = 256;  // what a task sums up does not depend on the number of threads

struct Sizes {
    int64_t rows, width, threads;
    int64_t half_update, half_y;  // whether these and their gradients are halves, not floats

    int64_t tasks() const { return (rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK; }

    // work(row, position of its first number) for each row of a task.
    template <class Work> void each(int64_t task, Work work) const {
        const int64_t end = std::min(rows, (task + 1) * ROWS_OF_TASK);
        for (int64_t row = task * ROWS_OF_TASK; row < end; ++row) work(row, row * width);
    }
};

struct Forward {
    Sizes size;
    const float *x;
    const void *update;  // none: null
    const float *weight;
    float *total;    // x + update
    void *y;         // the normed rows
    float *inverse;  // 1 / root of each row's mean square
    float epsilon;

    template <class Update, class Number> void run(int64_t task) const {
        const auto *added = static_cast<const Update *>(update);
        auto *normed = static_cast<Number *>(y);
        size.each(task, [=](int64_t row, int64_t at) {
            inverse[row] = norm_row(x + at, added ? added + at : nullptr, weight, total + at, normed + at, size.width,
                                    epsilon);
        });
    }

    void run(int64_t task) const {
        if (size.half_y)
            size.half_update ? run<Half, Half>(task) : run<float, Half>(task);
        else
            size.half_update ? run<Half, float>(task) : run<float, float>(task);
    }
};

struct Backward {
    Sizes size;
    const float *x, *weight, *inverse;
    const void *d_y;
    const float *d_total;  // nothing reads the sum but the norm: null
    float *d_x, *d_weight;  // d_weight: [tasks, width], zeros

    template <class Number> void run(int64_t task) const {
        const auto *gradient = static_cast<const Number *>(d_y);
        float *d_w = d_weight + task * size.width;
        size.each(task, [=](int64_t row, int64_t at) {
            norm_row_back(x + at, weight, inverse[row], gradient + at, d_total ? d_total + at : nullptr, d_x + at, d_w,
                          size.width);
        });
    }

    void run(int64_t task) const { size.half_y ? run<Half>(task) : run<float>(task); }
};

}  // namespace

extern "C" void rms_norm_forward(const Forward *pass) {
    parallel(pass->size.tasks(), pass->size.threads, [=](int64_t task) { pass->run(task); });
}

extern "C" int64_t rms_norm_tasks(const Sizes *size) { return size->tasks(); }

extern "C" void rms_norm_backward(const Backward *pass) {
    parallel(pass->size.tasks(), pass->size.threads, [=](int64_t task) { pass->run(task); });
}
