// The liquid scan forward and backward in float32, real or complex. Channels lie along a register; a few modes at a time
// stay in registers for a whole chunk of time, so that memory is hardly touched.
//
// The forward pass keeps h before every chunk. The backward pass goes through the chunks from the last to the first and
// recomputes the states of one chunk and a few modes at a time, which fit the first-level cache.

#include <algorithm>
#include <type_traits>

#include "vector.h"

namespace {

constexpr int64_t CHUNK = 32;  // time steps
constexpr int64_t PANEL = 16;  // registers of one task: its rows are then long enough to be fetched ahead
constexpr int64_t WIDE = PANEL * LANES;

struct Sizes {
    int64_t batch, length, channels, modes;
    int64_t parts;  // 1 real, 2 complex
    int64_t threads;

    int64_t panels() const { return (channels + WIDE - 1) / WIDE; }
    int64_t registers() const { return (channels + LANES - 1) / LANES; }
    int64_t moment() const { return batch * registers() * LANES * modes * parts; }  // floats of all states of one time
};

// A real number, or a complex one as its two parts, in every lane.
template <int P> struct Number {
    Vector part[P];

    Number() : part{} {}
    explicit Number(const float *from) {
        for (int p = 0; p < P; ++p) part[p] = load(from + p * LANES);
    }
    void write(float *to) const {
        for (int p = 0; p < P; ++p) store(to + p * LANES, part[p]);
    }
};

template <int P> inline Number<P> operator+(Number<P> a, const Number<P> &b) {
    for (int p = 0; p < P; ++p) a.part[p] += b.part[p];
    return a;
}

template <int P> inline Number<P> operator*(Number<P> a, Vector real) {
    for (int p = 0; p < P; ++p) a.part[p] *= real;
    return a;
}

// a b + c
template <int P> inline Number<P> product(const Number<P> &a, const Number<P> &b, const Number<P> &c) {
    Number<P> r;
    if constexpr (P == 1) {
        r.part[0] = c.part[0] + a.part[0] * b.part[0];
    } else {
        r.part[0] = c.part[0] + a.part[0] * b.part[0] - a.part[1] * b.part[1];
        r.part[1] = c.part[1] + a.part[0] * b.part[1] + a.part[1] * b.part[0];
    }
    return r;
}

// a̅ b + c
template <int P> inline Number<P> product_conjugate(const Number<P> &a, const Number<P> &b, const Number<P> &c) {
    Number<P> r;
    if constexpr (P == 1) {
        r.part[0] = c.part[0] + a.part[0] * b.part[0];
    } else {
        r.part[0] = c.part[0] + a.part[0] * b.part[0] + a.part[1] * b.part[1];
        r.part[1] = c.part[1] + a.part[0] * b.part[1] - a.part[1] * b.part[0];
    }
    return r;
}

template <int P> inline Number<P> conjugate(Number<P> a) {
    if constexpr (P == 2) a.part[1] = -a.part[1];
    return a;
}

// Re(a b) + c
template <int P> inline Vector real_product(const Number<P> &a, const Number<P> &b, Vector c) {
    c += a.part[0] * b.part[0];
    if constexpr (P == 2) c -= a.part[1] * b.part[1];
    return c;
}

// One task: the channels of a panel in one sequence. What belongs to channel and mode is [D, M, P] in memory and
// [registers, M, P, LANES], zeros at the end, in the order of work.
struct Task {
    const Sizes &size;
    int64_t batch, first, count;

    Task(const Sizes &size, int64_t number)
        : size(size), batch(number / size.panels()), first(number % size.panels() * WIDE),
          count(std::min(WIDE, size.channels - first)) {}

    int64_t registers() const { return (count + LANES - 1) / LANES; }
    int64_t each() const { return size.modes * size.parts * LANES; }  // floats of one register of channels
    int64_t floats() const { return registers() * each(); }
    int64_t place() const { return (batch * size.registers() + first / LANES) * each(); }  // within one moment
    int64_t plane() const { return batch * size.channels * size.modes * size.parts; }

    void pack(float *to, const float *from) const {
        move([=](int64_t packed, int64_t plain) { to[packed] = from[plain]; });
    }
    void unpack(float *to, const float *from) const {
        move([=](int64_t packed, int64_t plain) { to[plain] = from[packed]; });
    }

    // `steps` rows of the panel from `start` on as [registers, CHUNK, LANES].
    void read(float *to, const Rows &rows, int64_t start, int64_t steps) const {
        for (int64_t t = 0; t < steps; ++t)
            for (int64_t r = 0; r < registers(); ++r)
                store(to + (r * CHUNK + t) * LANES, load(rows.at(batch, start + t) + first + r * LANES, lanes(r)));
    }
    void write(const Rows &rows, const float *from, int64_t start, int64_t steps) const {
        for (int64_t t = 0; t < steps; ++t)
            for (int64_t r = 0; r < registers(); ++r)
                store(rows.at(batch, start + t) + first + r * LANES, load(from + (r * CHUNK + t) * LANES), lanes(r));
    }
    // k of a chunk, or null where nothing is forgotten.
    const float *kept(float *to, const Rows &keep, int64_t start, int64_t steps) const {
        if (!keep.data) return nullptr;
        for (int64_t t = 0; t < steps; ++t) to[t] = *keep.at(batch, start + t);
        return to;
    }

  private:
    int64_t lanes(int64_t r) const { return std::min<int64_t>(LANES, count - r * LANES); }

    template <class Move> void move(Move one) const {
        const int64_t numbers = size.modes * size.parts;
        for (int64_t d = 0; d < count; ++d)
            for (int64_t n = 0; n < numbers; ++n)
                one((d / LANES * numbers + n) * LANES + d % LANES, (first + d) * numbers + n);
    }
};

// body(mode, that many at a time) for all modes: `AT_ONCE`, then one by one.
template <int AT_ONCE, class Body> void modes(int64_t count, Body body) {
    int64_t m = 0;
    for (; m + AT_ONCE <= count; m += AT_ONCE) body(m, std::integral_constant<int, AT_ONCE>{});
    for (; m < count; ++m) body(m, std::integral_constant<int, 1>{});
}

struct Forward {
    Sizes size;
    Rows u, keep, y;
    const float *transition, *drive, *readout;  // [D, M, P]
    const float *initial;                       // [B, D, M, P]
    float *last;                                // [B, D, M, P]
    float *starts;                              // h before each chunk, packed, or null where no gradient is wanted

    // y += Re(C h) for some modes, and h to the end of the chunk.
    template <int P, int COUNT>
    static void advance(const float *us, const float *kept, int64_t steps, const float *A, const float *B,
                        const float *C, float *h, float *ys) {
        Number<P> a[COUNT], b[COUNT], c[COUNT], now[COUNT];
        for (int i = 0; i < COUNT; ++i) {
            const int64_t place = i * P * LANES;
            a[i] = Number<P>(A + place), b[i] = Number<P>(B + place);
            c[i] = Number<P>(C + place), now[i] = Number<P>(h + place);
        }
        for (int64_t t = 0; t < steps; ++t) {
            const Vector ut = load(us + t * LANES);
            Vector out = load(ys + t * LANES);
            for (int i = 0; i < COUNT; ++i) {
                if (kept) now[i] = now[i] * all(kept[t]);
                const Number<P> value = b[i] * ut;
                now[i] = product(a[i] + value, now[i], value);
                out = real_product(c[i], now[i], out);
            }
            store(ys + t * LANES, out);
        }
        for (int i = 0; i < COUNT; ++i) now[i].write(h + i * P * LANES);
    }

    template <int P> void run(const Task &task) const {
        const int64_t all = task.floats(), tile = PANEL * CHUNK * LANES;
        Scratch scratch(4 * all + 2 * tile + CHUNK);
        float *A = scratch, *B = A + all, *C = B + all, *h = C + all, *us = h + all, *ys = us + tile;
        task.pack(A, transition);
        task.pack(B, drive);
        task.pack(C, readout);
        task.pack(h, initial + task.plane());
        for (int64_t start = 0; start < size.length; start += CHUNK) {
            const int64_t steps = std::min(CHUNK, size.length - start);
            if (starts) std::memcpy(starts + start / CHUNK * size.moment() + task.place(), h, all * sizeof(float));
            const float *kept = task.kept(ys + tile, keep, start, steps);
            task.read(us, u, start, steps);
            std::fill(ys, ys + tile, 0.0f);
            for (int64_t r = 0; r < task.registers(); ++r)
                modes<P == 1 ? 4 : 2>(size.modes, [&](int64_t m, auto count) {
                    const int64_t place = r * task.each() + m * P * LANES, row = r * CHUNK * LANES;
                    advance<P, count>(us + row, kept, steps, A + place, B + place, C + place, h + place, ys + row);
                });
            task.write(y, ys, start, steps);
        }
        task.unpack(last + task.plane(), h);
    }
};

struct Backward {
    Sizes size;
    Rows u, keep, d_y, d_u;
    const float *transition, *drive, *readout;
    const float *starts;                      // as the forward pass left them
    const float *d_last;                      // [B, D, M, P]
    float *d_transition, *d_drive, *d_readout;  // [B, D, M, P], to be summed over the batch
    float *d_initial;                         // [B, D, M, P]

    // One chunk of one register of channels.
    struct Part {
        const float *us, *dys, *kept;
        int64_t steps;
        float *dus;

        Vector kept_at(int64_t t) const { return all(kept ? kept[t] : 1.0f); }
    };

    // h before and after every step: [steps + 1, COUNT, P, LANES].
    template <int P, int COUNT>
    static void recompute(const Part &part, const float *A, const float *B, const float *h, float *states) {
        Number<P> a[COUNT], b[COUNT], now[COUNT];
        for (int i = 0; i < COUNT; ++i) {
            const int64_t place = i * P * LANES;
            a[i] = Number<P>(A + place), b[i] = Number<P>(B + place), now[i] = Number<P>(h + place);
            now[i].write(states + place);
        }
        for (int64_t t = 0; t < part.steps; ++t) {
            const Vector ut = load(part.us + t * LANES);
            for (int i = 0; i < COUNT; ++i) {
                if (part.kept) now[i] = now[i] * part.kept_at(t);
                const Number<P> value = b[i] * ut;
                now[i] = product(a[i] + value, now[i], value);
                now[i].write(states + ((t + 1) * COUNT + i) * P * LANES);
            }
        }
    }

    // g = dL/dh from the last step to the first. g in memory is what later steps add to it: a̅ g of the step after.
    template <int P, int COUNT>
    static void retreat(const Part &part, const float *A, const float *B, const float *C, const float *states, float *g,
                        float *d_A, float *d_B, float *d_C) {
        Number<P> a[COUNT], b[COUNT], c[COUNT], later[COUNT], to_a[COUNT], to_b[COUNT], to_c[COUNT];
        for (int i = 0; i < COUNT; ++i) {
            const int64_t place = i * P * LANES;
            a[i] = Number<P>(A + place), b[i] = conjugate(Number<P>(B + place)), c[i] = conjugate(Number<P>(C + place));
            later[i] = Number<P>(g + place), to_a[i] = Number<P>(d_A + place);
            to_b[i] = Number<P>(d_B + place), to_c[i] = Number<P>(d_C + place);
            later[i] = later[i] + c[i] * load(part.dys + (part.steps - 1) * LANES);
        }
        for (int64_t t = part.steps - 1; t >= 0; --t) {
            const Vector ut = load(part.us + t * LANES), dy = load(part.dys + t * LANES);
            // C̅ dL/dy of the step before is added in the same product: a shorter chain from step to step.
            const Vector before = t > 0 ? load(part.dys + (t - 1) * LANES) : Vector{};
            Vector du = load(part.dus + t * LANES);
            for (int i = 0; i < COUNT; ++i) {
                const float *state = states + (t * COUNT + i) * P * LANES;
                Number<P> past(state), decay = a[i] + conjugate(b[i]) * ut;
                if (part.kept) {
                    past = past * part.kept_at(t);
                    decay = decay * part.kept_at(t);
                }
                to_c[i] = to_c[i] + conjugate(Number<P>(state + COUNT * P * LANES)) * dy;
                const Number<P> moved = product_conjugate(past, later[i], Number<P>());  // dL/d(Ā + B̄u)
                const Number<P> value = later[i] + moved;                                // dL/d(B̄u), both of them
                to_a[i] = to_a[i] + moved;
                to_b[i] = to_b[i] + value * ut;
                du = real_product(b[i], value, du);
                later[i] = product_conjugate(decay, later[i], c[i] * before);
            }
            store(part.dus + t * LANES, du);
        }
        for (int i = 0; i < COUNT; ++i) {
            const int64_t place = i * P * LANES;
            later[i].write(g + place), to_a[i].write(d_A + place);
            to_b[i].write(d_B + place), to_c[i].write(d_C + place);
        }
    }

    template <int P> void run(const Task &task) const {
        constexpr int AT_ONCE = P == 1 ? 2 : 1;
        const int64_t all = task.floats(), tile = PANEL * CHUNK * LANES, plane = task.plane();
        Scratch scratch(7 * all + 3 * tile + (CHUNK + 1) * AT_ONCE * P * LANES + CHUNK);
        float *A = scratch, *B = A + all, *C = B + all, *g = C + all, *d_A = g + all, *d_B = d_A + all;
        float *d_C = d_B + all, *us = d_C + all, *dys = us + tile, *dus = dys + tile, *states = dus + tile;
        task.pack(A, transition);
        task.pack(B, drive);
        task.pack(C, readout);
        task.pack(g, d_last + plane);
        for (int64_t start = (size.length - 1) / CHUNK * CHUNK; start >= 0; start -= CHUNK) {
            const int64_t steps = std::min(CHUNK, size.length - start);
            const float *first = starts + start / CHUNK * size.moment() + task.place();
            const float *kept = task.kept(states + (CHUNK + 1) * AT_ONCE * P * LANES, keep, start, steps);
            task.read(us, u, start, steps);
            task.read(dys, d_y, start, steps);
            std::fill(dus, dus + tile, 0.0f);
            for (int64_t r = 0; r < task.registers(); ++r) {
                const int64_t row = r * CHUNK * LANES;
                const Part part{us + row, dys + row, kept, steps, dus + row};
                modes<AT_ONCE>(size.modes, [&](int64_t m, auto count) {
                    const int64_t place = r * task.each() + m * P * LANES;
                    recompute<P, count>(part, A + place, B + place, first + place, states);
                    retreat<P, count>(part, A + place, B + place, C + place, states, g + place, d_A + place,
                                      d_B + place, d_C + place);
                });
            }
            task.write(d_u, dus, start, steps);
        }
        task.unpack(d_initial + plane, g);
        task.unpack(d_transition + plane, d_A);
        task.unpack(d_drive + plane, d_B);
        task.unpack(d_readout + plane, d_C);
    }
};

template <class Pass> void run(const Pass *pass) {
    const Sizes &size = pass->size;
    parallel(size.panels() * size.batch, size.threads, [=, &size](int64_t number) {
        const Task task(size, number);
        if (size.parts == 1)
            pass->template run<1>(task);
        else
            pass->template run<2>(task);
    });
}

}  // namespace

extern "C" int64_t liquid_scan_states(const Sizes *size) {  // floats of `starts`
    return (size->length + CHUNK - 1) / CHUNK * size->moment();
}

extern "C" void liquid_scan_forward(const Forward *pass) { run(pass); }

extern "C" void liquid_scan_backward(const Backward *pass) { run(pass); }
