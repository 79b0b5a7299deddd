// How `expand` is cut into blocks of threads: every cut is tried on a count of the work, and the cheapest is taken.
#include <algorithm>
#include <limits>

#include "mbconv_cuda.h"

namespace dna_fast::mbconv {
namespace {

constexpr std::int64_t kRows = 16;        // of a product
constexpr std::int64_t kTableEntry = 16;  // bytes

// Too much for an int is too much for any shared memory, too.
int as_int(std::int64_t value) {
    return static_cast<int>(std::min<std::int64_t>(value, std::numeric_limits<int>::max()));
}
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A pitch that is `rest` more than a multiple of 128: the rows of a fragment then lie in different banks.
std::int64_t staggered(std::int64_t bytes, std::int64_t rest) {
    return round_up(std::max<std::int64_t>(bytes - rest, 0), 128) + rest;
}

// Instructions of one call, roughly, over what the GPU can do at once. The numbers are counts from the kernel's source,
// not measurements; only their proportions matter.
double cost(const ExpandPlan& plan, const Shape& s, Dtype dtype, std::int64_t images, const CudaDevice& device) {
    const double chunks = static_cast<double>(ceil_div(s.mid_channels, plan.channels));
    const double groups = static_cast<double>(ceil_div(images, plan.images)), parts = plan.parts();
    const double halo = static_cast<double>(s.kernel - s.stride);
    const double rows_in = static_cast<double>(s.height) / plan.row_parts + (plan.row_parts > 1 ? halo : 0.0);
    const double channels = static_cast<double>(round_up(s.mid_channels, kRows)) / chunks;
    const double depth_steps = static_cast<double>(ceil_div(s.in_channels * storage_bytes(dtype), kStepBytes)) *
                               (dtype == Dtype::float32 ? 4 : 1);
    const double expansion = s.has_expansion ? 2.5 * depth_steps : 8.0;
    const double pixels_in = plan.images * rows_in * plan.input_tiles * kBlockCols;
    const double products_out = plan.steps * static_cast<double>(ceil_div(plan.images * plan.rows * plan.col_blocks,
                                                                          dtype == Dtype::float32 ? 32 : 2));
    const double per_product = dtype == Dtype::float32 ? 9.0 * s.kernel * s.kernel : 3.0 * s.kernel * s.stride + 40.0;
    const double fetch = s.has_expansion ? pixels_in * depth_steps * 2 * 15.0 / kBlockCols / 4 : 0.0;
    const double step = 400.0 * plan.steps * ceil_div(plan.rows * s.stride, plan.x_rows) + 1500.0;
    const double block =
        channels * pixels_in * (10.0 + expansion) / 32 + channels * products_out * per_product + fetch + step;
    const double resident = std::clamp(static_cast<double>(device.processor_bytes / (plan.shared_bytes + 1024)), 1.0,
                                       2.0);  // registers allow no third
    const double at_once = device.processors * resident, blocks = chunks * groups * parts;
    // Blocks that share a multiprocessor hide each other's latencies; the last wave may be nearly empty.
    const double waves = blocks < at_once ? 1.0 : 0.5 + blocks / at_once;
    return block * resident * waves * (resident < 1.5 ? 1.5 : 1.0);
}

}  // namespace

// Sizes that follow from the five that are chosen; the order of the parts is that of the kernel.
ExpandPlan sized_plan(ExpandPlan plan, const Shape& s, Dtype dtype, bool raw) {
    const std::int64_t bytes = storage_bytes(dtype), phases = s.stride;
    const bool is_whole_row = plan.col_tiles == 1;
    plan.ring_rows = as_int((plan.rows - 1) * s.stride + s.kernel);
    plan.steps = as_int(ceil_div(ceil_div(s.out_rows, plan.row_parts), plan.rows));
    plan.row_parts = as_int(ceil_div(s.out_rows, plan.steps * plan.rows));  // none of them without rows
    plan.input_tiles = as_int(phases * (is_whole_row ? ceil_div(s.width, kBlockCols * s.stride) : plan.col_blocks + 1));
    plan.x_cols = as_int(std::min<std::int64_t>(s.width, is_whole_row ? s.width : plan.input_tiles * kBlockCols));
    plan.x_pitch = as_int(s.has_expansion ? round_up(s.in_channels * bytes, kStepBytes) + kStepBytes / 2 : 0);
    plan.ring_pitch = as_int(phases * (plan.col_blocks + 1) * kBlockCols * bytes);
    plan.channel_pitch =
        as_int(staggered(static_cast<std::int64_t>(plan.images) * plan.ring_rows * plan.ring_pitch, 8 * bytes));
    const std::int64_t x_pixels = static_cast<std::int64_t>(plan.images) * plan.x_rows * plan.x_cols;
    const std::int64_t tiles = static_cast<std::int64_t>(plan.images) * plan.x_rows * plan.input_tiles;
    const std::int64_t out_blocks = static_cast<std::int64_t>(plan.images) * plan.rows * plan.col_blocks;
    const std::int64_t weights = plan.channels * static_cast<std::int64_t>(plan.x_pitch);
    const std::int64_t taps = plan.channels * tap_words(dtype, s.kernel, s.stride) * 4;
    const std::int64_t sums = plan.channels * (raw ? 16 : 4 * plan.images);
    plan.shared_bytes = as_int(weights + x_pixels * plan.x_pitch + plan.channels * plan.channel_pitch + taps +
                               (tiles + 2 * out_blocks) * kTableEntry + round_up(sums, kTableEntry));
    return plan;
}

ExpandPlan plan_expand(const Shape& s, Dtype dtype, std::int64_t images, bool raw, const CudaDevice& device) {
    const std::int64_t all_blocks = ceil_div(s.out_cols, kBlockCols);
    ExpandPlan best{};
    double best_cost = 0.0;
    const auto consider = [&](ExpandPlan plan) {
        const std::int64_t most =
            std::min(s.height, (plan.rows - 1) * s.stride + s.kernel);  // that a step is made from
        for (std::int64_t rows : {most, std::int64_t{8}, std::int64_t{4}, std::int64_t{2}, std::int64_t{1}}) {
            if (rows > most || (plan.images > 1 && rows < s.height)) continue;
            plan.x_rows = as_int(rows);
            const ExpandPlan sized = sized_plan(plan, s, dtype, raw);
            if (sized.shared_bytes > device.shared_bytes) continue;
            const double its_cost = cost(sized, s, dtype, images, device);
            if (best.channels == 0 || its_cost < best_cost) {
                best = sized;
                best_cost = its_cost;
            }
        }
    };
    for (std::int64_t chunk : {64, 48, 32, 16}) {
        // Chunks of equal size, as far as sixteens allow.
        const std::int64_t chunks = ceil_div(s.mid_channels, chunk);
        ExpandPlan plan{};
        plan.channels = as_int(round_up(ceil_div(s.mid_channels, chunks), kRows));
        for (std::int64_t blocks = all_blocks;; blocks = ceil_div(blocks, 2)) {
            plan.col_blocks = as_int(blocks);
            plan.col_tiles = as_int(ceil_div(all_blocks, blocks));
            for (std::int64_t rows :
                 {s.out_rows, std::int64_t{16}, std::int64_t{8}, std::int64_t{4}, std::int64_t{2}, std::int64_t{1}}) {
                if (rows > s.out_rows) continue;
                plan.rows = as_int(rows);
                const bool is_whole = rows == s.out_rows && plan.col_tiles == 1;
                for (int at_once : {1, 2, 4}) {
                    if (at_once > 1 && (!is_whole || raw || at_once > images)) break;
                    plan.images = at_once;
                    const std::int64_t most_parts = is_whole ? 1 : ceil_div(s.out_rows, rows);
                    for (std::int64_t parts = 1; parts <= most_parts; parts *= 2) {
                        plan.row_parts = as_int(parts);
                        consider(plan);
                    }
                }
            }
            if (blocks == 1) break;
        }
    }
    return best;
}

}  // namespace dna_fast::mbconv
