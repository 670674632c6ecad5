// What the native kernels share: one register of floats, its powers of two, sequences of rows, and the splitting of
// work over threads.
//
// Plain GCC vector extensions, so that the same source compiles for any x86-64 or ARM.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

// Registers in memory, anywhere. The compiler knows them for floats: writing them changes no number of another kind.
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

inline Vector load(const float *address) { return *reinterpret_cast<const Unaligned *>(address); }

inline void store(float *address, Vector value) { *reinterpret_cast<Unaligned *>(address) = value; }

// The first `count` lanes in memory, zeros in the others.
inline Vector load(const float *address, int64_t count) {
    if (count >= LANES) return load(address);
    Vector value = {};
    std::memcpy(&value, address, count * sizeof(float));
    return value;
}

inline void store(float *address, Vector value, int64_t count) {
    if (count >= LANES) return store(address, value);
    std::memcpy(address, &value, count * sizeof(float));
}

// A bfloat16: the upper half of a float. Computed with as a float, and rounded to the nearest, ties to even.
struct Half {
    uint16_t bits;
};

typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

inline Vector load(const Half *address) {
    Halves halves;
    std::memcpy(&halves, address, sizeof halves);
    return (Vector)(__builtin_convertvector(halves, Words) << 16);
}

inline void store(Half *address, Vector value) {
    const Words words = (Words)value, rounded = words + 0x7fff + (words >> 16 & 1);
    const Halves halves = __builtin_convertvector((value == value ? rounded : words | 0x400000) >> 16, Halves);
    std::memcpy(address, &halves, sizeof halves);
}

inline Vector load(const Half *address, int64_t count) {
    Half some[LANES] = {};
    if (count >= LANES) return load(address);
    std::memcpy(some, address, count * sizeof(Half));
    return load(some);
}

inline void store(Half *address, Vector value, int64_t count) {
    Half some[LANES];
    if (count >= LANES) return store(address, value);
    store(some, value);
    std::memcpy(address, some, count * sizeof(Half));
}

// work(position, count) for `count` numbers from `start` on, register by register, the last one perhaps in part.
template <class Work> inline void each_register(int64_t start, int64_t count, Work work) {
    const int64_t end = start + count;
    int64_t i = start;
    for (; i + LANES <= end; i += LANES) work(i, LANES);
    if (i < end) work(i, int(end - i));
}

inline Vector all(float value) { return value - Vector{}; }

inline float sum(Vector value) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)value);
#else
    typedef float Four __attribute__((vector_size(16)));
    Four parts[LANES / 4], total = {};
    std::memcpy(parts, &value, sizeof value);
    for (int part = 0; part < LANES / 4; ++part) total += parts[part];
    return (total[0] + total[2]) + (total[1] + total[3]);
#endif
}

// The sums of `count` registers in memory, one after the other.
inline void sums(const float *registers, int64_t count, float *to) {
    int64_t i = 0;
#if defined(__AVX512F__)
    // Sixteen at a time, halving what is left of each: pairs of rows meet in one register, at every level.
    for (; i + LANES <= count; i += LANES) {
        __m512 rows[LANES];
        for (int k = 0; k < LANES; ++k) rows[k] = (__m512)load(registers + (i + k) * LANES);
        for (int k = 0; k < 8; ++k)
            rows[k] = _mm512_maskz_unpacklo_ps(-1, rows[2 * k], rows[2 * k + 1]) +
                      _mm512_maskz_unpackhi_ps(-1, rows[2 * k], rows[2 * k + 1]);
        for (int k = 0; k < 4; ++k) {
            const __m512d a = (__m512d)rows[2 * k], b = (__m512d)rows[2 * k + 1];
            rows[k] = (__m512)_mm512_maskz_unpacklo_pd(-1, a, b) + (__m512)_mm512_maskz_unpackhi_pd(-1, a, b);
        }
        for (int left = 2; left > 0; left /= 2)
            for (int k = 0; k < left; ++k)
                rows[k] = _mm512_maskz_shuffle_f32x4(-1, rows[2 * k], rows[2 * k + 1], 0x88) +
                          _mm512_maskz_shuffle_f32x4(-1, rows[2 * k], rows[2 * k + 1], 0xdd);
        store(to + i, (Vector)rows[0]);
    }
#endif
    for (; i < count; ++i) to[i] = sum(load(registers + i * LANES));
}

inline float largest(Vector value) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)value);
#else
    float top = value[0];
    for (int lane = 1; lane < LANES; ++lane) top = value[lane] > top ? value[lane] : top;
    return top;
#endif
}

constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

// c_0 + c_1 x + c_2 x² + …
template <int COUNT> inline Vector polynomial(const float (&c)[COUNT], Vector x) {
    Vector sum = all(c[COUNT - 1]);
    for (int k = COUNT - 2; k >= 0; --k) sum = sum * x + c[k];
    return sum;
}

// 2^x within 1 ulp; 0 below the smallest normal number, infinite above the largest; NaN for NaN only.
inline Vector power_of_two(Vector x) {
#if defined(__AVX512DQ__)
    // The processor takes the nearest integer away, and scales by it, whatever the size of x.
    const Vector r = (Vector)_mm512_maskz_reduce_ps(-1, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector n = x - r;
#else
    const Vector low = all(-152.0f), high = all(130.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Vector magic = all(12582912.0f);  // 1.5 · 2^23: adding and taking it away rounds to an integer
    const Vector n = (x + magic) - magic, r = x - n;
#endif
    // 2^r = 1 + r q(r) for |r| ≤ 1/2, q by least maximum of the relative error, 2e-9
    const Vector p = polynomial({1.0f, 6.931472029e-1f, 2.402264791e-1f, 5.550332470e-2f, 9.618437360e-3f,
                                 1.339887472e-3f, 1.535336196e-4f}, r);
#if defined(__AVX512DQ__)
    return (Vector)_mm512_maskz_scalef_ps(-1, (__m512)p, (__m512)n);
#else
    const Integers power = __builtin_convertvector(n, Integers), half = power >> 1;
    const Integers first = (half + 127) << 23, second = (power - half + 127) << 23;
    return p * (Vector)first * (Vector)second;
#endif
}

inline Vector sigmoid(Vector x) {
    const Vector power = x * -LOG2_E;
#if defined(__AVX512F__)
    // A division takes longer than all the rest: 1 / a to 14 bits, and one step of Newton's method. It needs a finite a,
    // and 0 is as good where a is larger.
    const Vector a = 1.0f + power_of_two(power), near = (Vector)_mm512_maskz_rcp14_ps(-1, (__m512)a);
    return power > all(125.0f) ? Vector{} : near * (2.0f - a * near);
#else
    return 1.0f / (1.0f + power_of_two(power));
#endif
}

// While it lives, results too small for a normal float are 0: a dying state would otherwise take a hundred times longer.
class NoSubnormals {
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();

  public:
    NoSubnormals() { _mm_setcsr(before | 0x8000); }
    ~NoSubnormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;

  public:
    NoSubnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
    }
    ~NoSubnormals() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#else
  public:
    NoSubnormals() {}
#endif
};

// [batch, time, column] with columns side by side; distances in floats.
struct Rows {
    float *data;
    int64_t batch, time;

    float *at(int64_t b, int64_t t) const { return data + b * batch + t * time; }
};

// [batch, head, time, element] with elements side by side; distances in elements.
template <class Number> struct HeadsOf {
    Number *data;
    int64_t batch, head, time;

    Number *at(int64_t b, int64_t h, int64_t t) const { return data + b * batch + h * head + t * time; }
};

typedef HeadsOf<float> Heads;

// Memory of one call, aligned to a register, filled with zeros or left as it is.
class Scratch {
    Vector *data;

  public:
    explicit Scratch(int64_t floats, bool zeros = true) : data(new Vector[(floats + LANES - 1) / LANES]) {
        if (zeros) std::memset(data, 0, (floats + LANES - 1) / LANES * sizeof(Vector));
    }
    ~Scratch() { delete[] data; }
    Scratch(const Scratch &) = delete;
    operator float *() { return reinterpret_cast<float *>(data); }
};

// work(task) for all tasks. Each must be the same computation whichever thread runs it.
template <class Work> void parallel(int64_t tasks, int64_t threads, Work work) {
    std::atomic<int64_t> next{0};
    auto run = [&] {
        NoSubnormals guard;
        for (int64_t task; (task = next++) < tasks;) work(task);
    };
    std::vector<std::thread> others;
    for (int64_t thread = 1; thread < threads && thread < tasks; ++thread) others.emplace_back(run);
    run();
    for (auto &other : others) other.join();
}
