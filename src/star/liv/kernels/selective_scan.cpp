// The selective scan forward and backward in float32, with what stands before and after it: the softplus of raw step
// sizes, the skip and the gate. Channels lie along a register; h stays in the first-level cache.
//
// The forward pass keeps h before every chunk of time. The backward pass goes through the chunks from the last to the
// first, each time recomputing Δ, a and h of one block of channels, so that they never leave the cache.

#include "scan_blocks.h"

namespace {

// log(1 + e^r) and its derivative, both to the last bits however large or small they are.
struct Softplus {
    Vector value, slope;

    explicit Softplus(Vector r) {
        const Vector zero = {}, one = all(1.0f);
        const auto positive = r > zero;
        const Vector e = power_of_two((positive ? r : -r) * -LOG2_E), both = 1.0f / ((1.0f + e) * (2.0f + e));
        const Vector s = e * (1.0f + e) * both, z = s * s;  // log(1 + e) = 2 atanh(s), s = e / (2 + e) ≤ 1/3
        // 2 atanh(s) / s by least maximum of the relative error, 5e-9
        const Vector p = polynomial({2.0f, 0.666664183f, 0.400215268f, 0.280018032f, 0.280119926f}, z);
        value = (positive ? r : zero) + p * s;
        slope = (positive ? one : e) * ((2.0f + e) * both);
    }
};

struct Forward {
    Sizes size;
    Rows x, delta, b, c, keep, gate, y;
    const float *decay;    // [N, D]
    const float *skip;     // [D] or null
    const float *initial;  // [B, N, D]
    float *last;           // [B, N, D]
    float *starts;         // h before each chunk, packed, or null where no gradient is wanted

    template <int V, int HELD>
    void block(int64_t batch, int64_t start, int64_t column, int64_t count, float *A, float *h, float *copies) const {
        constexpr int64_t width = V * LANES;
        const int64_t N = HELD ? HELD : size.states, copy = size.chunk * width;
        const int64_t steps = std::min(size.chunk, size.length - start);
        const Tile xs(x, batch, start, steps, column, count, width, copies);
        const Tile ds(delta, batch, start, steps, column, count, width, copies + copy);
        const Tile gates(gate, batch, start, steps, column, count, width, copies + 2 * copy);
        const Tile ys(y, batch, start, steps, column, count, width, copies + 3 * copy, false);
        const Held<V, HELD> decays(A);
        Held<V, HELD> states(h);
        Vector skipped[V];
        for (int v = 0; v < V; ++v) skipped[v] = skip ? load(skip + column + v * LANES, count - v * LANES) : Vector{};
        for (int64_t t = 0; t < steps; ++t) {
            const float *bt = b.at(batch, start + t), *ct = c.at(batch, start + t);
            const float kept = keep.data ? *keep.at(batch, start + t) : 1.0f;
            ahead(xs, t, width);
            ahead(ds, t, width);
            ahead(ys, t, width);
            if (gates.data) ahead(gates, t, width);
            Vector step[V], drive[V], out[V];
            for (int v = 0; v < V; ++v) {
                const Vector given = load(ds.at(t, v)), value = load(xs.at(t, v));
                step[v] = size.raw ? Softplus(given).value : given;
                drive[v] = step[v] * value;
                out[v] = skipped[v] * value;
            }
            for (int64_t n = 0; n < N; ++n)
                for (int v = 0; v < V; ++v) {
                    const Vector a = power_of_two(step[v] * decays.get(n, v)) * kept;
                    const Vector now = a * states.get(n, v) + drive[v] * bt[n];
                    states.set(n, v, now);
                    out[v] += now * ct[n];
                }
            for (int v = 0; v < V; ++v) store(ys.at(t, v), gates.data ? out[v] * load(gates.at(t, v)) : out[v]);
        }
        states.write_back();
        ys.write_back(y, batch, start, steps, column, count);
    }

    void run(const Task &task) const {
        const Packed &packed = task.packed;
        const int64_t plane = task.batch * size.states * size.channels;
        Scratch scratch(2 * packed.size() + 8 * size.chunk * LANES);
        float *A = scratch, *h = A + packed.size(), *copies = h + packed.size();
        packed.pack(A, decay, LOG2_E);
        packed.pack(h, initial + plane);
        float *kept = starts ? starts + task.place : nullptr;
        for (int64_t start = 0; start < size.length; start += size.chunk) {
            if (kept) {
                std::memcpy(kept, h, packed.size() * sizeof(float));
                kept += Task::moment(size);
            }
            with_states(size.states, [&](auto held) {
                blocks(packed.first, packed.last, [&](auto registers, int64_t column, int64_t count) {
                    block<registers, held>(task.batch, start, column, count, A + packed.at(column),
                                           h + packed.at(column), copies);
                });
            });
        }
        packed.unpack(last + plane, h);
    }
};

struct Backward {
    Sizes size;
    Rows x, delta, b, c, keep, gate, d_y, d_x, d_delta, d_gate;
    const float *decay;   // [N, D]
    const float *skip;    // [D] or null
    const float *starts;  // as the forward pass left them
    const float *d_last;  // [B, N, D]
    float *d_b, *d_c;     // [groups, B, L, N], to be summed over groups
    float *d_decay;       // [B, N, D], to be summed over the batch
    float *d_skip;        // [B, D], zeros at first, to be summed over the batch
    float *d_initial;     // [B, N, D]

    // One chunk of one block: a and h anew, then g = dL/dh from its last step to its first.
    // d_bs and d_cs [steps, N, LANES] collect what is to be summed over channels.
    template <int V, int HELD, bool GATED>
    void block(int64_t batch, int64_t start, int64_t column, int64_t count, float *A, const float *first, float *g,
               float *d_A, float *d_bs, float *d_cs, float *scratch) const {
        constexpr int64_t width = V * LANES;
        const int64_t N = HELD ? HELD : size.states, row = N * width, copy = size.chunk * width;
        const int64_t steps = std::min(size.chunk, size.length - start);
        float *a = scratch, *h = a + size.chunk * row, *copies = h + (size.chunk + 1) * row;
        const Tile xs(x, batch, start, steps, column, count, width, copies);
        Tile ds(delta, batch, start, steps, column, count, width, copies + copy);
        const Tile dys(d_y, batch, start, steps, column, count, width, copies + 2 * copy);
        const Tile dxs(d_x, batch, start, steps, column, count, width, copies + 3 * copy, false);
        const Tile dds(d_delta, batch, start, steps, column, count, width, copies + 4 * copy, false);
        const Tile gates(gate, batch, start, steps, column, count, width, copies + 5 * copy);
        const Tile dgs(d_gate, batch, start, steps, column, count, width, copies + 6 * copy, false);
        const Tile raws = ds;
        float *slopes = copies + 8 * copy;
        if (size.raw) ds.data = copies + 7 * copy, ds.stride = width;
        std::memcpy(h, first, row * sizeof(float));
        const Held<V, HELD> decays(A);
        for (int64_t t = 0; t < steps; ++t) {
            ahead(xs, t, width);
            ahead(raws, t, width);
            ahead(dys, t, width);
            if (GATED) ahead(gates, t, width);
            const float *bt = b.at(batch, start + t);
            const float kept = keep.data ? *keep.at(batch, start + t) : 1.0f;
            Vector step[V], drive[V];
            for (int v = 0; v < V; ++v) {
                step[v] = load(raws.at(t, v));
                if (size.raw) {
                    const Softplus softplus(step[v]);
                    step[v] = softplus.value;
                    store(ds.at(t, v), softplus.value);
                    store(slopes + t * width + v * LANES, softplus.slope);
                }
                drive[v] = step[v] * load(xs.at(t, v));
            }
            for (int64_t n = 0; n < N; ++n)
                for (int v = 0; v < V; ++v) {
                    const int64_t place = t * row + n * width + v * LANES;
                    const Vector decayed = power_of_two(step[v] * decays.get(n, v)) * kept;
                    store(a + place, decayed);
                    store(h + place + row, decayed * load(h + place) + drive[v] * bt[n]);
                }
        }
        Held<V, HELD> later(g), d_decays(d_A);
        Vector skipped[V], d_skipped[V];
        for (int v = 0; v < V; ++v) {
            skipped[v] = skip ? load(skip + column + v * LANES, count - v * LANES) : Vector{};
            d_skipped[v] = Vector{};
        }
        for (int64_t t = steps - 1; t >= 0; --t) {
            ahead(dxs, t, width);
            ahead(dds, t, width);
            if (GATED) ahead(dgs, t, width);
            const float *bt = b.at(batch, start + t), *ct = c.at(batch, start + t);
            Vector step[V], value[V], dy[V], drive[V], d_drive[V], d_step[V], out[V];
            for (int v = 0; v < V; ++v) {
                step[v] = load(ds.at(t, v));
                value[v] = load(xs.at(t, v));
                dy[v] = GATED ? load(dys.at(t, v)) * load(gates.at(t, v)) : load(dys.at(t, v));
                drive[v] = step[v] * value[v];
                out[v] = skipped[v] * value[v];
                d_drive[v] = d_step[v] = Vector{};
            }
            for (int64_t n = 0; n < N; ++n) {
                Vector to_b = load(d_bs + (t * N + n) * LANES), to_c = load(d_cs + (t * N + n) * LANES);
                for (int v = 0; v < V; ++v) {
                    const int64_t place = n * width + v * LANES;
                    const Vector now = later.get(n, v) + dy[v] * ct[n];
                    const Vector state = load(h + (t + 1) * row + place);
                    to_c += dy[v] * state;
                    if (GATED) out[v] += state * ct[n];
                    to_b += now * drive[v];
                    d_drive[v] += now * bt[n];
                    const Vector before = now * load(a + t * row + place);
                    later.set(n, v, before);
                    const Vector exponent = before * load(h + t * row + place);  // d(Δ A)
                    d_step[v] += exponent * decays.get(n, v);
                    d_decays.set(n, v, d_decays.get(n, v) + exponent * step[v]);
                }
                store(d_bs + (t * N + n) * LANES, to_b);
                store(d_cs + (t * N + n) * LANES, to_c);
            }
            for (int v = 0; v < V; ++v) {
                d_step[v] = d_drive[v] * value[v] + d_step[v] * LN_2;
                if (size.raw) d_step[v] *= load(slopes + t * width + v * LANES);
                store(dxs.at(t, v), d_drive[v] * step[v] + dy[v] * skipped[v]);
                store(dds.at(t, v), d_step[v]);
                if (GATED) store(dgs.at(t, v), load(dys.at(t, v)) * out[v]);
                d_skipped[v] += dy[v] * value[v];
            }
        }
        for (int v = 0; skip && v < V; ++v) {
            float *total = d_skip + batch * size.channels + column + v * LANES;
            store(total, load(total, count - v * LANES) + d_skipped[v], count - v * LANES);
        }
        later.write_back();
        d_decays.write_back();
        dxs.write_back(d_x, batch, start, steps, column, count);
        dds.write_back(d_delta, batch, start, steps, column, count);
        dgs.write_back(d_gate, batch, start, steps, column, count);
    }

    void run(const Task &task) const {
        const Packed &packed = task.packed;
        const int64_t N = size.states, width = 2 * LANES, lanes = size.chunk * N * LANES, all = packed.size();
        const int64_t plane = task.batch * N * size.channels, group = packed.first / size.group;
        Scratch scratch(3 * all + 2 * lanes + (2 * size.chunk + 1) * N * width + 9 * size.chunk * width);
        float *A = scratch, *g = A + all, *d_A = g + all, *d_bs = d_A + all, *d_cs = d_bs + lanes;
        packed.pack(A, decay, LOG2_E);
        packed.pack(g, d_last + plane);
        for (int64_t chunk = (size.length - 1) / size.chunk; chunk >= 0; --chunk) {
            const int64_t start = chunk * size.chunk, steps = std::min(size.chunk, size.length - start);
            const float *first = starts + chunk * Task::moment(size) + task.place;
            std::memset(d_bs, 0, 2 * lanes * sizeof(float));
            with_states(N, [&](auto held) {
                blocks(packed.first, packed.last, [&](auto registers, int64_t column, int64_t count) {
                    const int64_t own = packed.at(column);
                    const auto call = gate.data ? &Backward::block<registers, held, true>
                                                : &Backward::block<registers, held, false>;
                    (this->*call)(task.batch, start, column, count, A + own, first + own, g + own, d_A + own, d_bs,
                                  d_cs, d_cs + lanes);
                });
            });
            const int64_t place = ((group * size.batch + task.batch) * size.length + start) * N;
            sums(d_bs, steps * N, d_b + place);
            sums(d_cs, steps * N, d_c + place);
        }
        packed.unpack(d_initial + plane, g);
        packed.unpack(d_decay + plane, d_A);
    }
};

template <class Pass> void run(const Pass *pass) {
    const Sizes &size = pass->size;
    parallel(Task::groups(size) * size.batch, size.threads, [=](int64_t number) { pass->run(Task(size, number)); });
}

}  // namespace

extern "C" int64_t selective_scan_states(const Sizes *size) {  // floats of `starts`
    return (size->length + size->chunk - 1) / size->chunk * Task::moment(*size);
}

extern "C" void selective_scan_forward(const Forward *pass) { run(pass); }

extern "C" void selective_scan_backward(const Backward *pass) { run(pass); }
