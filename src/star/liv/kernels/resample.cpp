// Resampling forward and backward in float32. A task owns some channels of one sequence, so whatever is added to their
// gradients is added by one thread, in the order of time; and no two lanes of a register read or add to one value.

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace {

constexpr int64_t WIDE = 256;  // channels of one task: all values that its window reaches stay in the second-level cache

struct Sizes {
    int64_t batch, length, channels;
    int64_t lead;  // values before the first position
    int64_t threads;

    int64_t panels() const { return (channels + WIDE - 1) / WIDE; }
};

struct Task {
    int64_t batch, first, count;

    Task(const Sizes &size, int64_t number)
        : batch(number / size.panels()), first(number % size.panels() * WIDE),
          count(std::min(WIDE, size.channels - first)) {}
};

// Where a register of positions reads: lane i at `back[i]` rows ago and the row before that.
struct Place {
    Integers back;
    Vector fraction;

    Place(Vector shift, int64_t lead) {
        const Vector most = all(float(lead - 1));
        // Rounded down by way of integers. What is no lag at all, NaN included, becomes one that can be read.
        Vector bounded = shift > Vector{} ? shift : Vector{};
        bounded = bounded < most ? bounded : most;
        back = __builtin_convertvector(bounded, Integers);
        fraction = shift - __builtin_convertvector(back, Vector);
    }
};

struct Forward {
    Sizes size;
    Rows values, shift, y;

    void run(const Task &task) const {
        for (int64_t t = 0; t < size.length; ++t) {
            const float *now = values.at(task.batch, size.lead + t) + task.first;
            const float *shifts = shift.at(task.batch, t) + task.first;
            float *yt = y.at(task.batch, t) + task.first;
            for (int64_t c = 0; c < task.count; c += LANES) {
                const int64_t lanes = std::min<int64_t>(LANES, task.count - c);
                const Place place(load(shifts + c, lanes), size.lead);
                const Read read(now + c, values.time, place, lanes);
                // Exact at both ends: a whole shift copies one value.
                store(yt + c, read.near * (1.0f - place.fraction) + read.far * place.fraction, lanes);
            }
        }
    }

    // v_{t-n} and v_{t-n-1}.
    struct Read {
        Vector near = {}, far = {};

        Read(const float *now, int64_t row, const Place &place, int64_t lanes) {
            if (lanes == LANES) {
                for (int i = 0; i < LANES; ++i) {
                    const float *at = now + i - place.back[i] * row;
                    near[i] = at[0], far[i] = at[-row];
                }
            } else {
                for (int64_t i = 0; i < lanes; ++i) {
                    const float *at = now + i - place.back[i] * row;
                    near[i] = at[0], far[i] = at[-row];
                }
            }
        }
    };
};

struct Backward {
    Sizes size;
    Rows values, shift, d_y, d_values, d_shift;

    void run(const Task &task) const {
        const int64_t row = d_values.time;
        for (int64_t t = 0; t < size.lead; ++t)
            std::fill_n(d_values.at(task.batch, t) + task.first, task.count, 0.0f);
        for (int64_t t = 0; t < size.length; ++t) {
            const float *now = values.at(task.batch, size.lead + t) + task.first;
            const float *shifts = shift.at(task.batch, t) + task.first, *dy = d_y.at(task.batch, t) + task.first;
            float *d_now = d_values.at(task.batch, size.lead + t) + task.first;
            float *ds = d_shift.at(task.batch, t) + task.first;
            std::fill_n(d_now, task.count, 0.0f);  // the first position that reads this value
            for (int64_t c = 0; c < task.count; c += LANES) {
                const int64_t lanes = std::min<int64_t>(LANES, task.count - c);
                const Place place(load(shifts + c, lanes), size.lead);
                const Vector gradient = load(dy + c, lanes), d_far = gradient * place.fraction;
                const Vector d_near = gradient - d_far;
                const Forward::Read read(now + c, values.time, place, lanes);
                store(ds + c, gradient * (read.far - read.near), lanes);
                for (int64_t i = 0; i < lanes; ++i) {
                    float *at = d_now + c + i - place.back[i] * row;
                    at[0] += d_near[i], at[-row] += d_far[i];
                }
            }
        }
    }
};

template <class Pass> void run(const Pass *pass) {
    const Sizes &size = pass->size;
    parallel(size.panels() * size.batch, size.threads, [=, &size](int64_t number) { pass->run(Task(size, number)); });
}

}  // namespace

extern "C" void resample_forward(const Forward *pass) { run(pass); }

extern "C" void resample_backward(const Backward *pass) { run(pass); }
