// What the native kernels share: one register of floats, its exponential, and the splitting of work over threads.
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

inline Vector load(const float *address) {
    Vector value;
    std::memcpy(&value, address, sizeof value);
    return value;
}

inline void store(float *address, Vector value) { std::memcpy(address, &value, sizeof value); }

inline Vector all(float value) { return value - Vector{}; }

inline float sum(Vector value) {
    float total[LANES];
    store(total, value);
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; ++lane) total[lane] += total[lane + width];
    return total[0];
}

// e^x within 1 ulp; 0 below the smallest normal number, infinite above the largest; NaN for NaN only.
inline Vector exponential(Vector x) {
    const Vector low = all(-104.0f), high = all(89.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Vector magic = all(12582912.0f);  // 1.5 · 2^23: adding and taking it away rounds to an integer
    const Vector n = (x * 1.44269504088896341f + magic) - magic;
    Vector r = x - n * 0.693359375f;  // ln 2 in two parts, the first exact in a product with n
    r = r - n * -2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
    return (Vector)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    const Integers power = __builtin_convertvector(n, Integers), half = power >> 1;
    const Integers first = (half + 127) << 23, second = (power - half + 127) << 23;
    return p * (Vector)first * (Vector)second;
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

// Memory of one call, aligned to a register.
class Scratch {
    Vector *data;

  public:
    explicit Scratch(int64_t floats) : data(new Vector[(floats + LANES - 1) / LANES]()) {}
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
