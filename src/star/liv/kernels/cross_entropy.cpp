// The cross-entropy of each row of logits and, in their place, its gradient: softmax(z) - 1 at the target. A row is read
// from memory once: it stays in the cache for its greatest number, its exponentials and their division by their sum.

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace {

constexpr int64_t TASK = 32;  // rows
constexpr int64_t SPAN = 256;  // numbers that are summed before they meet the sum of others: long sums round

struct Pass {
    int64_t rows, vocab, threads;
    float *logits;  // [rows, vocab]; gradients where `gradients`
    const int64_t *targets;
    float *losses;  // [rows]
    int64_t gradients;

    void run(int64_t row) const {
        float *z = logits + row * vocab;
        Vector tops = all(z[0]), sums = {};
        each_register(0, vocab, [&](int64_t i, int count) {
            Vector value = load(z + i, count);
            if (count < LANES) value = rest(value, count, z[0]);
            tops = value > tops ? value : tops;
        });
        const float top = largest(tops), own = z[targets[row]] - top;
        for (int64_t start = 0; start < vocab; start += SPAN) {
            Vector some = {};
            each_register(start, std::min(SPAN, vocab - start), [&](int64_t i, int count) {
                Vector power = power_of_two((load(z + i, count) - top) * LOG2_E);
                if (count < LANES) power = rest(power, count, 0);
                some += power;
                if (gradients) store(z + i, power, count);
            });
            sums += some;
        }
        const float total = sum(sums);
        losses[row] = std::log(total) - own;
        if (!gradients) return;
        const float share = 1 / total;
        each_register(0, vocab, [&](int64_t i, int count) { store(z + i, load(z + i, count) * share, count); });
        z[targets[row]] -= 1;
    }

    // The lanes from `count` on are `value`.
    static Vector rest(Vector numbers, int count, float value) {
        for (int lane = count; lane < LANES; ++lane) numbers[lane] = value;
        return numbers;
    }
};

}  // namespace

// Returns the first row whose target is no place of a logit, and then does nothing; else the number of rows.
extern "C" int64_t cross_entropy(const Pass *pass) {
    for (int64_t row = 0; row < pass->rows; ++row)
        if (pass->targets[row] < 0 || pass->targets[row] >= pass->vocab) return row;
    parallel((pass->rows + TASK - 1) / TASK, pass->threads, [=](int64_t task) {
        for (int64_t row = task * TASK; row < std::min(pass->rows, (task + 1) * TASK); ++row) pass->run(row);
    });
    return pass->rows;
}
