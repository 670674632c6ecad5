// Root mean square norm of the rows of a residual stream, with the addition before it, forward and backward.

#include "stream.h"

namespace {

constexpr int64_t ROWS_OF_TASK = 256;  // what a task sums up does not depend on the number of threads

struct Sizes {
    int64_t rows, width, threads;

    int64_t tasks() const { return (rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK; }
    int64_t end(int64_t task) const { return std::min(rows, (task + 1) * ROWS_OF_TASK); }
};

struct Forward {
    Sizes size;
    const float *x, *update, *weight;  // no update: null
    float *total, *y, *inverse;        // x + update, the normed rows, 1 / root of each row's mean square
    float epsilon;

    void run(int64_t task) const {
        for (int64_t row = task * ROWS_OF_TASK, at = row * size.width; row < size.end(task); ++row, at += size.width)
            inverse[row] = norm_row(x + at, update ? update + at : nullptr, weight, total + at, y + at, size.width,
                                    epsilon);
    }
};

struct Backward {
    Sizes size;
    const float *x, *weight, *inverse, *d_y, *d_total;  // nothing reads the sum but the norm: d_total null
    float *d_x, *d_weight;                              // d_weight: [tasks, width], zeros

    void run(int64_t task) const {
        float *d_w = d_weight + task * size.width;
        for (int64_t row = task * ROWS_OF_TASK, at = row * size.width; row < size.end(task); ++row, at += size.width)
            norm_row_back(x + at, weight, inverse[row], d_y + at, d_total ? d_total + at : nullptr, d_x + at, d_w,
                          size.width);
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
