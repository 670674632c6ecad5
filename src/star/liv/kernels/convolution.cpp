// The short causal convolution y = C ⊙ (K * (B ⊙ x)), with or without the gates B and C, forward and backward in
// float32. Time goes by once, row by row; what a row needs of the rows before it lies in rings that stay in the cache.

#include <algorithm>

#include "vector.h"

namespace {

constexpr int64_t WIDE = 512;  // channels of one task: rows long enough to be fetched ahead, rings short enough for a cache

struct Sizes {
    int64_t batch, length, channels, taps, threads;

    int64_t panels() const { return (channels + WIDE - 1) / WIDE; }
};

// One task: some channels of one sequence.
struct Task {
    int64_t batch, first, count;

    Task(const Sizes &size, int64_t number)
        : batch(number / size.panels()), first(number % size.panels() * WIDE),
          count(std::min(WIDE, size.channels - first)) {}

    int64_t width() const { return (count + LANES - 1) / LANES * LANES; }
    Vector read(const float *row, int64_t c) const { return load(row + c, count - c); }
    void write(float *row, int64_t c, Vector value) const { store(row + c, value, count - c); }

    // This task's columns of a row, or null for a tensor that is not there.
    float *row(const Rows &rows, int64_t t) const { return rows.data ? rows.at(batch, t) + first : nullptr; }

    // [n, channels] → [n, width], zeros at the end.
    void pack(float *to, const float *from, int64_t n, int64_t channels) const {
        for (int64_t k = 0; k < n; ++k)
            for (int64_t c = 0; c < count; c += LANES) store(to + k * width() + c, read(from + k * channels + first, c));
    }
};

// The last `count` rows of a sequence that grows: row t lies at t mod count. Rows before the first are zeros.
struct Ring {
    float *data;
    int64_t count, width;

    float *at(int64_t t) const { return data + (t + count) % count * width; }
};

struct Forward {
    Sizes size;
    Rows x, gate_in, gate_out, y;
    const float *taps;  // [n, D], the last for the present token

    void run(const Task &task) const {
        const int64_t n = size.taps, width = task.width();
        Scratch scratch(2 * n * width);
        float *weights = scratch;
        const Ring inputs{weights + n * width, n, width};
        task.pack(weights, taps, n, size.channels);
        for (int64_t t = 0; t < size.length; ++t) {
            const float *xt = task.row(x, t), *in = task.row(gate_in, t), *out = task.row(gate_out, t);
            float *yt = task.row(y, t), *ut = inputs.at(t);
            for (int64_t c = 0; c < task.count; c += LANES) {
                Vector u = task.read(xt, c);
                if (in) u *= task.read(in, c);
                store(ut + c, u);
                Vector value = u * load(weights + (n - 1) * width + c);
                for (int64_t lag = 1; lag < n; ++lag)
                    value += load(inputs.at(t - lag) + c) * load(weights + (n - 1 - lag) * width + c);
                if (out) value *= task.read(out, c);
                task.write(yt, c, value);
            }
        }
    }
};

struct Backward {
    Sizes size;
    Rows x, gate_in, gate_out, d_y, d_x, d_in, d_out;
    const float *taps;
    float *d_taps;  // [B, n, D], to be summed over the batch

    void run(const Task &task) const {
        const int64_t n = size.taps, width = task.width(), last = n - 1;
        Scratch scratch(4 * n * width);
        float *weights = scratch, *d_weights = weights + n * width;
        const Ring inputs{d_weights + n * width, n, width}, gradients{inputs.data + n * width, n, width};
        task.pack(weights, taps, n, size.channels);
        // u_t = B_t x_t has its whole gradient once that of K * u is known up to t + n - 1: it is written so much later.
        for (int64_t t = 0; t < size.length + last; ++t) {
            if (t < size.length)
                present(task, t, weights, d_weights, inputs, gradients);
            else
                std::fill_n(gradients.at(t), width, 0.0f);
            if (const int64_t past = t - last; past >= 0) {
                const float *xt = task.row(x, past), *in = task.row(gate_in, past);
                float *dx = task.row(d_x, past), *d_gate = task.row(d_in, past);
                for (int64_t c = 0; c < task.count; c += LANES) {
                    Vector d_u = {};
                    for (int64_t lag = 0; lag < n; ++lag)
                        d_u += load(gradients.at(past + lag) + c) * load(weights + (last - lag) * width + c);
                    if (in) {
                        task.write(d_gate, c, d_u * task.read(xt, c));
                        d_u *= task.read(in, c);
                    }
                    task.write(dx, c, d_u);
                }
            }
        }
        for (int64_t k = 0; k < n; ++k)
            std::copy_n(d_weights + k * width, task.count, d_taps + (task.batch * n + k) * size.channels + task.first);
    }

    // The gradients of K * u and of C at t, and what they add to the taps'.
    void present(const Task &task, int64_t t, const float *weights, float *d_weights, const Ring &inputs,
                 const Ring &gradients) const {
        const int64_t n = size.taps, width = task.width(), last = n - 1;
        const float *xt = task.row(x, t), *in = task.row(gate_in, t), *out = task.row(gate_out, t);
        const float *dy = task.row(d_y, t);
        float *d_gate = task.row(d_out, t), *ut = inputs.at(t), *gt = gradients.at(t);
        for (int64_t c = 0; c < task.count; c += LANES) {
            Vector u = task.read(xt, c), gradient = task.read(dy, c);
            if (in) u *= task.read(in, c);
            store(ut + c, u);
            if (out) {
                Vector value = {};
                for (int64_t lag = 0; lag < n; ++lag)
                    value += load(inputs.at(t - lag) + c) * load(weights + (last - lag) * width + c);
                task.write(d_gate, c, value * gradient);
                gradient *= task.read(out, c);
            }
            store(gt + c, gradient);
            for (int64_t lag = 0; lag < n; ++lag) {
                float *total = d_weights + (last - lag) * width + c;
                store(total, load(total) + gradient * load(inputs.at(t - lag) + c));
            }
        }
    }
};

template <class Pass> void run(const Pass *pass) {
    const Sizes &size = pass->size;
    parallel(size.panels() * size.batch, size.threads, [=, &size](int64_t number) { pass->run(Task(size, number)); });
}

}  // namespace

extern "C" void short_convolution_forward(const Forward *pass) { run(pass); }

extern "C" void short_convolution_backward(const Backward *pass) { run(pass); }
