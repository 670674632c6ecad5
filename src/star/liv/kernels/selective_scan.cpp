// The selective scan forward and backward in float32. Channels lie along a register; h stays in the first-level cache.
//
// The forward pass keeps h before every chunk of time. The backward pass goes through the chunks from the last to the
// first, each time recomputing a and h of one block of channels, so that they never leave the cache.

#include "vector.h"

namespace {

// [batch, time, column] with columns side by side; distances in floats.
struct Rows {
    float *data;
    int64_t batch, time;

    float *at(int64_t b, int64_t t) const { return data + b * batch + t * time; }
};

struct Sizes {
    int64_t batch, length, channels, states;
    int64_t chunk;  // time steps
    int64_t group;  // channels of one task
    int64_t threads;
};

// `count` columns of a chunk of rows, `width` of them in memory: in place, or copied and filled up with zeros.
struct Tile {
    float *data;
    int64_t stride;

    Tile(const Rows &rows, int64_t b, int64_t start, int64_t steps, int64_t column, int64_t count, int64_t width,
         float *copy, bool reading = true) {
        data = rows.data ? rows.at(b, start) + column : nullptr;
        stride = rows.time;
        if (count == width || !data) return;
        if (reading)
            for (int64_t t = 0; t < steps; ++t) {
                std::memcpy(copy + t * width, data + t * stride, count * sizeof(float));
                std::memset(copy + t * width + count, 0, (width - count) * sizeof(float));
            }
        data = copy;
        stride = width;
    }

    void write_back(const Rows &rows, int64_t b, int64_t start, int64_t steps, int64_t column, int64_t count) const {
        if (rows.at(b, start) + column == data) return;
        for (int64_t t = 0; t < steps; ++t)
            std::memcpy(rows.at(b, start + t) + column, data + t * stride, count * sizeof(float));
    }
};

// [N, D] <-> [N, width] for `count` columns.
void gather(float *to, const float *from, int64_t states, int64_t channels, int64_t count, int64_t width) {
    for (int64_t n = 0; n < states; ++n) {
        for (int64_t j = 0; j < count; ++j) to[n * width + j] = from[n * channels + j];
        for (int64_t j = count; j < width; ++j) to[n * width + j] = 0;
    }
}

void scatter(float *to, const float *from, int64_t states, int64_t channels, int64_t count, int64_t width) {
    for (int64_t n = 0; n < states; ++n)
        for (int64_t j = 0; j < count; ++j) to[n * channels + j] = from[n * width + j];
}

// body(block of V registers, first column, columns) over the columns [first, last): two registers at a time, then one.
template <class Body> void blocks(int64_t first, int64_t last, Body body) {
    while (last - first >= 2 * LANES) {
        body(std::integral_constant<int, 2>{}, first, int64_t(2 * LANES));
        first += 2 * LANES;
    }
    while (first < last) {
        const int64_t count = last - first < LANES ? last - first : LANES;
        body(std::integral_constant<int, 1>{}, first, count);
        first += count;
    }
}

struct Forward {
    Sizes size;
    Rows x, delta, b, c, keep, y;
    const float *decay;    // [N, D]
    const float *initial;  // [B, N, D]
    float *last;           // [B, N, D]
    float *starts;         // [chunks, B, N, D], or null where no gradient is wanted

    template <int V> void block(int64_t batch, int64_t column, int64_t count) const {
        constexpr int64_t width = V * LANES;
        const int64_t N = size.states, plane = N * size.channels;
        Scratch scratch((2 * N + 3 * size.chunk) * width);
        float *A = scratch, *h = A + N * width, *copies = h + N * width;
        gather(A, decay + column, N, size.channels, count, width);
        gather(h, initial + batch * plane + column, N, size.channels, count, width);
        for (int64_t start = 0, chunk = 0; start < size.length; start += size.chunk, ++chunk) {
            if (starts)
                scatter(starts + (chunk * size.batch + batch) * plane + column, h, N, size.channels, count, width);
            const int64_t steps = size.length - start < size.chunk ? size.length - start : size.chunk;
            const Tile xs(x, batch, start, steps, column, count, width, copies);
            const Tile ds(delta, batch, start, steps, column, count, width, copies + size.chunk * width);
            const Tile ys(y, batch, start, steps, column, count, width, copies + 2 * size.chunk * width, false);
            for (int64_t t = 0; t < steps; ++t) {
                const float *bt = b.at(batch, start + t), *ct = c.at(batch, start + t);
                const float kept = keep.data ? *keep.at(batch, start + t) : 1.0f;
                Vector step[V], drive[V], out[V];
                for (int v = 0; v < V; ++v) {
                    step[v] = load(ds.data + t * ds.stride + v * LANES);
                    drive[v] = step[v] * load(xs.data + t * xs.stride + v * LANES);
                    out[v] = Vector{};
                }
                for (int64_t n = 0; n < N; ++n)
                    for (int v = 0; v < V; ++v) {
                        float *place = h + n * width + v * LANES;
                        const Vector a = exponential(step[v] * load(A + n * width + v * LANES)) * kept;
                        const Vector now = a * load(place) + drive[v] * bt[n];
                        store(place, now);
                        out[v] += now * ct[n];
                    }
                for (int v = 0; v < V; ++v) store(ys.data + t * ys.stride + v * LANES, out[v]);
            }
            ys.write_back(y, batch, start, steps, column, count);
        }
        scatter(last + batch * plane + column, h, N, size.channels, count, width);
    }
};

struct Backward {
    Sizes size;
    Rows x, delta, b, c, keep, d_y, d_x, d_delta;
    const float *decay;    // [N, D]
    const float *starts;   // [chunks, B, N, D]
    const float *d_last;   // [B, N, D]
    float *d_b, *d_c;      // [groups, B, L, N], to be summed over groups
    float *d_decay;        // [B, N, D], to be summed over the batch
    float *d_initial;      // [B, N, D]

    // One chunk of one block: a and h anew, then g = dL/dh from its last step to its first.
    // d_bs and d_cs [steps, N, LANES] collect what is to be summed over channels.
    template <int V>
    void block(int64_t batch, int64_t start, int64_t column, int64_t count, float *d_bs, float *d_cs,
               float *scratch) const {
        constexpr int64_t width = V * LANES;
        const int64_t N = size.states, plane = N * size.channels, row = N * width;
        const int64_t steps = size.length - start < size.chunk ? size.length - start : size.chunk;
        float *A = scratch, *g = A + row, *d_A = g + row, *a = d_A + row, *h = a + size.chunk * row;
        float *copies = h + (size.chunk + 1) * row;
        const int64_t copy = size.chunk * width;
        const Tile xs(x, batch, start, steps, column, count, width, copies);
        const Tile ds(delta, batch, start, steps, column, count, width, copies + copy);
        const Tile dys(d_y, batch, start, steps, column, count, width, copies + 2 * copy);
        const Tile dxs(d_x, batch, start, steps, column, count, width, copies + 3 * copy, false);
        const Tile dds(d_delta, batch, start, steps, column, count, width, copies + 4 * copy, false);
        gather(A, decay + column, N, size.channels, count, width);
        gather(h, starts + (start / size.chunk * size.batch + batch) * plane + column, N, size.channels, count, width);
        gather(g, d_initial + batch * plane + column, N, size.channels, count, width);
        gather(d_A, d_decay + batch * plane + column, N, size.channels, count, width);
        for (int64_t t = 0; t < steps; ++t) {
            const float *bt = b.at(batch, start + t);
            const float kept = keep.data ? *keep.at(batch, start + t) : 1.0f;
            Vector step[V], drive[V];
            for (int v = 0; v < V; ++v) {
                step[v] = load(ds.data + t * ds.stride + v * LANES);
                drive[v] = step[v] * load(xs.data + t * xs.stride + v * LANES);
            }
            for (int64_t n = 0; n < N; ++n)
                for (int v = 0; v < V; ++v) {
                    const int64_t place = t * row + n * width + v * LANES;
                    const Vector decayed = exponential(step[v] * load(A + n * width + v * LANES)) * kept;
                    store(a + place, decayed);
                    store(h + place + row, decayed * load(h + place) + drive[v] * bt[n]);
                }
        }
        for (int64_t t = steps - 1; t >= 0; --t) {
            const float *bt = b.at(batch, start + t), *ct = c.at(batch, start + t);
            Vector step[V], value[V], dy[V], drive[V], d_drive[V], d_step[V];
            for (int v = 0; v < V; ++v) {
                step[v] = load(ds.data + t * ds.stride + v * LANES);
                value[v] = load(xs.data + t * xs.stride + v * LANES);
                dy[v] = load(dys.data + t * dys.stride + v * LANES);
                drive[v] = step[v] * value[v];
                d_drive[v] = d_step[v] = Vector{};
            }
            for (int64_t n = 0; n < N; ++n) {
                Vector to_b = load(d_bs + (t * N + n) * LANES), to_c = load(d_cs + (t * N + n) * LANES);
                for (int v = 0; v < V; ++v) {
                    const int64_t place = n * width + v * LANES;
                    const Vector now = load(g + place) + dy[v] * ct[n];
                    to_c += dy[v] * load(h + (t + 1) * row + place);
                    to_b += now * drive[v];
                    d_drive[v] += now * bt[n];
                    const Vector before = now * load(a + t * row + place);
                    store(g + place, before);
                    const Vector exponent = before * load(h + t * row + place);  // d(Δ A)
                    d_step[v] += exponent * load(A + place);
                    store(d_A + place, load(d_A + place) + exponent * step[v]);
                }
                store(d_bs + (t * N + n) * LANES, to_b);
                store(d_cs + (t * N + n) * LANES, to_c);
            }
            for (int v = 0; v < V; ++v) {
                store(dxs.data + t * dxs.stride + v * LANES, d_drive[v] * step[v]);
                store(dds.data + t * dds.stride + v * LANES, d_drive[v] * value[v] + d_step[v]);
            }
        }
        dxs.write_back(d_x, batch, start, steps, column, count);
        dds.write_back(d_delta, batch, start, steps, column, count);
        scatter(d_initial + batch * plane + column, g, N, size.channels, count, width);
        scatter(d_decay + batch * plane + column, d_A, N, size.channels, count, width);
    }

    void task(int64_t group, int64_t batch) const {
        const int64_t N = size.states, width = 2 * LANES, lanes = size.chunk * N * LANES;
        const int64_t first = group * size.group;
        const int64_t last = first + size.group < size.channels ? first + size.group : size.channels;
        Scratch scratch((3 + 2 * size.chunk + 1) * N * width + 5 * size.chunk * width), sums(2 * lanes);
        float *d_bs = sums, *d_cs = d_bs + lanes;
        for (int64_t n = 0; n < N; ++n)
            for (int64_t j = first; j < last; ++j) {
                const int64_t place = (batch * N + n) * size.channels + j;
                d_initial[place] = d_last[place];
                d_decay[place] = 0;
            }
        for (int64_t start = (size.length - 1) / size.chunk * size.chunk; start >= 0; start -= size.chunk) {
            std::memset(d_bs, 0, 2 * lanes * sizeof(float));
            blocks(first, last, [&](auto registers, int64_t column, int64_t count) {
                block<decltype(registers)::value>(batch, start, column, count, d_bs, d_cs, scratch);
            });
            const int64_t steps = size.length - start < size.chunk ? size.length - start : size.chunk;
            const int64_t place = ((group * size.batch + batch) * size.length + start) * N;
            for (int64_t i = 0; i < steps * N; ++i) {
                d_b[place + i] = sum(load(d_bs + i * LANES));
                d_c[place + i] = sum(load(d_cs + i * LANES));
            }
        }
    }
};

int64_t groups(const Sizes &size) { return (size.channels + size.group - 1) / size.group; }

}  // namespace

extern "C" void selective_scan_forward(const Forward *pass) {
    const Sizes &size = pass->size;
    parallel(groups(size) * size.batch, size.threads, [=](int64_t task) {
        const int64_t first = task % groups(size) * size.group;
        const int64_t last = first + size.group < size.channels ? first + size.group : size.channels;
        blocks(first, last, [=](auto registers, int64_t column, int64_t count) {
            pass->block<decltype(registers)::value>(task / groups(size), column, count);
        });
    });
}

extern "C" void selective_scan_backward(const Backward *pass) {
    const Sizes &size = pass->size;
    parallel(groups(size) * size.batch, size.threads,
             [=](int64_t task) { pass->task(task % groups(size), task / groups(size)); });
}
