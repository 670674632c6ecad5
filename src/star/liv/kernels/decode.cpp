// One token of a whole backbone: a list of records, one for each operation, executed in order.
//
// The records point to weights as they are stored, to the tensors of a decoding state, and to buffers of their own; all
// are float32, [batch, …] without gaps. A record begins with the number of its operation in the table at the end.

#include <algorithm>
#include <cmath>
#include <limits>

#include "attend.h"
#include "products.h"

namespace {

enum Nonlinearity { RELU = 3, SWISH = 4 };  // the numbers of the genome; any other: none

Vector positive(Vector x) { return x > 0.0f ? x : Vector{}; }

Vector activated(Vector x, int64_t nonlinearity) {
    if (nonlinearity == SWISH) return x / (1.0f + power_of_two(x * -LOG2_E));
    return nonlinearity == RELU ? positive(x) : x;
}

// log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; log(1 + u) = 2 artanh(u / (2 + u)), whose argument is at most 1/3.
Vector softplus(Vector x) {
    const Vector size = x < 0.0f ? -x : x, u = power_of_two(size * -LOG2_E), s = u / (2.0f + u), square = s * s;
    Vector series = all(1.0f / 15);
    for (int odd = 13; odd > 0; odd -= 2) series = series * square + 1.0f / float(odd);
    return positive(x) + 2.0f * s * series;
}

// 1 - e^-x for x ≥ 0, to the last digits also where x is small.
Vector reached(Vector x) {
    Vector series = all(1.0f / 40320);
    for (float factorial : {5040.0f, 720.0f, 120.0f, 24.0f, 6.0f, 2.0f, 1.0f}) series = 1.0f / factorial - series * x;
    return x < 0.5f ? series * x : 1.0f - power_of_two(x * -LOG2_E);
}

struct Copy {
    int64_t kind, size;
    const float *x;
    float *y;

    void run(const Program &program) const { std::memcpy(y, x, program.batch * size * sizeof(float)); }
};

struct Add {
    int64_t kind, size;
    const float *x;
    float *y;

    void run(const Program &program) const {
        each_register(0, program.batch * size, [&](int64_t i, int count) {
            store(y + i, load(y + i, count) + load(x + i, count), count);
        });
    }
};

// y = w ⊙ x / √(mean(x²) + ε)
struct Norm {
    int64_t kind, size;
    const float *x, *weight;
    float *y;
    double epsilon;

    void run(const Program &program) const {
        for (int64_t b = 0; b < program.batch; ++b) {
            const float *from = x + b * size;
            float *to = y + b * size;
            Vector squares = {};
            each_register(0, size, [&](int64_t i, int count) {
                const Vector value = load(from + i, count);
                squares += value * value;
            });
            const float factor = 1 / std::sqrt(sum(squares) / float(size) + float(epsilon));
            each_register(0, size, [&](int64_t i, int count) {
                store(to + i, load(from + i, count) * factor * load(weight + i, count), count);
            });
        }
    }
};

struct Product {
    int64_t kind, inputs, outputs, sign;
    const float *x, *weight;
    float *y;

    void run(const Program &program) const {
        product(weight, x, y, inputs, outputs, sign, program.batch, program.turned);
    }
};

// y = σ(Σ_k taps[k] ⊙ x_{t-taps+1+k} + bias), of which the ring holds the last inputs; repeated.
struct Finish {
    int64_t kind, size, taps, nonlinearity, repeat;
    const float *x, *weight, *bias;
    float *ring, *y;

    void run(const Program &program) const {
        const int64_t past = std::max<int64_t>(taps - 1, 0), slot = past > 0 ? program.position % past : 0;
        for (int64_t b = 0; b < program.batch; ++b) {
            float *kept = ring + b * past * size, *to = y + b * size * repeat;
            each_register(0, size, [&](int64_t i, int count) {
                const Vector present = load(x + b * size + i, count);
                Vector value = present;
                if (taps > 0) {
                    value *= load(weight + past * size + i, count);
                    for (int64_t tap = 0; tap < past; ++tap) {
                        const float *entry = kept + (program.position + tap) % past * size;
                        value += load(entry + i, count) * load(weight + tap * size + i, count);
                    }
                    if (past > 0) store(kept + slot * size + i, present, count);
                }
                if (bias) value += load(bias + i, count);
                value = activated(value, nonlinearity);
                if (repeat == 1) return store(to + i, value, count);
                for (int64_t lane = 0; lane < count; ++lane)
                    std::fill_n(to + (i + lane) * repeat, repeat, value[lane]);
            });
        }
    }
};

// y = σ(gate) ⊙ up
struct Gate {
    int64_t kind, size, nonlinearity;
    const float *gate, *up;
    float *y;

    void run(const Program &program) const {
        each_register(0, program.batch * size, [&](int64_t i, int count) {
            store(y + i, activated(load(gate + i, count), nonlinearity) * load(up + i, count), count);
        });
    }
};

// h ← exp(Δ A) ⊙ h + Δ B v, y = z ⊙ (C h + D v), Δ = softplus(delta); h and A: [states, size].
struct Scan {
    int64_t kind, size, states;
    const float *v, *z, *delta, *B, *C, *decay, *present;
    float *h, *y;

    void run(const Program &program) const {
        for (int64_t b = 0; b < program.batch; ++b) {
            const float *drive = B + b * states, *readout = C + b * states;
            float *kept = h + b * states * size;
            each_register(0, size, [&](int64_t i, int count) {
                const Vector step = softplus(load(delta + b * size + i, count)), value = load(v + b * size + i, count);
                const Vector input = step * value, exponent = step * LOG2_E;
                Vector total = load(present + i, count) * value;
                for (int64_t n = 0; n < states; ++n) {
                    const int64_t place = n * size + i;
                    const Vector factor = power_of_two(exponent * load(decay + place, count));
                    const Vector next = load(kept + place, count) * factor + drive[n] * input;
                    store(kept + place, next, count);
                    total += readout[n] * next;
                }
                store(y + b * size + i, total * load(z + b * size + i, count), count);
            });
        }
    }
};

// h ← a h + b u, y = Re(c h) + D u for each channel; complex numbers as pairs, c conjugated; h: [size, states].
struct StateSpace {
    int64_t kind, size, states, paired;
    const float *u, *transition, *drive, *readout, *present;
    float *h, *y;

    void run(const Program &program) const {
        for (int64_t b = 0; b < program.batch; ++b)
            for (int64_t channel = 0; channel < size; ++channel) {
                const int64_t start = channel * states;
                const float input = u[b * size + channel], *a = transition + start, *from = drive + start;
                float *kept = h + b * size * states + start;
                if (paired) {
                    for (int64_t n = 0; n < states; n += 2) {
                        const float real = kept[n], imaginary = kept[n + 1];
                        kept[n] = a[n] * real - a[n + 1] * imaginary + from[n] * input;
                        kept[n + 1] = a[n] * imaginary + a[n + 1] * real + from[n + 1] * input;
                    }
                } else {
                    for (int64_t n = 0; n < states; ++n) kept[n] = a[n] * kept[n] + from[n] * input;
                }
                y[b * size + channel] = dot(kept, readout + start, states) + present[channel] * input;
            }
    }
};

// y = Σ_t kernel[length - 1 - position + t] u_t for each channel, u noted in `past`; both [size, length].
struct Convolution {
    int64_t kind, size, length;
    const float *u, *kernel;
    float *past, *y;

    void run(const Program &program) const {
        const int64_t seen = program.position + 1;
        for (int64_t b = 0; b < program.batch; ++b)
            for (int64_t channel = 0; channel < size; ++channel) {
                float *kept = past + (b * size + channel) * length;
                kept[program.position] = u[b * size + channel];
                y[b * size + channel] = dot(kept, kernel + (channel + 1) * length - seen, seen);
            }
    }
};

// y = x read s tokens ago, s = W (1 - exp(-softplus(shift) / W)), between tokens by linear interpolation; the ring holds
// the last `length` of x, and 0 stands before the first token.
struct Resample {
    int64_t kind, size, window, length;
    const float *x, *shift, *bias;
    float *ring, *y;

    void run(const Program &program) const {
        const float span = float(window);
        for (int64_t b = 0; b < program.batch; ++b) {
            float *kept = ring + b * length * size;
            const auto entry = [&](int64_t lag, int64_t i) {
                if (lag > program.position) return 0.0f;
                return lag == 0 ? x[b * size + i] : kept[(program.position - lag) % length * size + i];
            };
            each_register(0, size, [&](int64_t i, int count) {
                Vector raw = load(shift + b * size + i, count);
                if (bias) raw += load(bias + i, count);
                const Vector back = span * reached(softplus(raw) / span);
                for (int lane = 0; lane < count; ++lane) {
                    // A shift that is not a number must not read elsewhere.
                    const int64_t lag = back[lane] >= 0 ? std::min(int64_t(back[lane]), window - 1) : 0;
                    const float near = entry(lag, i + lane), far = entry(lag + 1, i + lane);
                    y[b * size + i + lane] = near + (back[lane] - float(lag)) * (far - near);
                }
            });
            std::memcpy(kept + program.position % length * size, x + b * size, size * sizeof(float));
        }
    }
};

template <class Operation> void run(const void *record, const Program &program) {
    static_cast<const Operation *>(record)->run(program);
}

constexpr void (*OPERATIONS[])(const void *, const Program &) = {
    run<Copy>,       run<Add>,         run<Norm>,     run<Product>, run<Finish>, run<Gate>,           run<Scan>,
    run<StateSpace>, run<Convolution>, run<Resample>, run<Rotate>,  run<Attend>, run<LinearAttention>,
};

}  // namespace

extern "C" void decode(const Program *program) {
    NoSubnormals guard;
    for (int64_t number = 0; number < program->count; ++number) {
        const void *record = program->records[number];
        OPERATIONS[*static_cast<const int64_t *>(record)](record, *program);
    }
}
