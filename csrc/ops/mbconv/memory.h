// What an image in the making occupies: element types for a storage type and instruction set, and scratch memory.
#pragma once

#include <type_traits>

#include "blocks.h"
#include "mbconv.h"

namespace dna_fast::mbconv {
namespace {

template <class T>
MBCONV_INLINE T* at(unsigned char* base, std::int64_t offset) {
    return reinterpret_cast<T*>(base + offset);
}

MBCONV_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
MBCONV_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <class S, bool kDot>
struct Memory {
    // Elements of the ring and of the image's activated depthwise result, and left factors of products.
    using Operand = std::conditional_t<kDot, BFloat16, float>;
    // Elements of packed matrices.
    using Weight = S;
    static constexpr bool kNarrow = std::is_same_v<S, BFloat16>;
    static constexpr int kPair = kDot ? 2 : 1;           // ring rows, taps, and elements of Operand a lane
    static constexpr int kWeightPair = kNarrow ? 2 : 1;  // elements of Weight a lane
    static constexpr Accuracy kAccuracy = kDot ? Accuracy::half : Accuracy::full;
    static constexpr Dtype kDtype = kNarrow ? Dtype::bfloat16 : Dtype::float32;
    static constexpr std::int64_t kAlignment = 64;

    // ---- scratch memory ---------------------------------------------------------------------------------------------

    struct Shared {             // byte offsets
        std::int64_t result;    // Operand [Q * R][M padded]
        std::int64_t pooled;    // float [M padded]: sums, then means
        std::int64_t gates;     // float [M padded]
        std::int64_t squeezed;  // float [S]
        std::int64_t output;    // Operand [Q * R][K padded], for an adapter
        std::int64_t bytes;
    };
    struct Own {
        std::int64_t x;       // Operand [H * W][x_pitch], where x cannot be used as it is
        std::int64_t ring;    // Operand [ring_rows + 1][ring_cols][48][kPair]; the last row is zeros
        std::int64_t folded;  // Operand [M][48], pairs as packed
        std::int64_t bytes;
    };

    static std::int64_t mid_padded(const Shape& s) { return round_up(s.mid_channels, kVector); }
    static std::int64_t out_padded(const Shape& s) { return round_up(s.out_channels, kVector); }
    // Dot products read a pair beyond an odd number of channels.
    static std::int64_t x_pitch(const Shape& s) { return kDot ? round_up(s.in_channels, 2) : s.in_channels; }
    static bool converts_x(const Shape& s) { return s.has_expansion && kNarrow && (!kDot || s.in_channels % 2 != 0); }
    static std::int64_t ring_rows(const Shape& s) { return kDot ? (s.kernel + 1) / 2 : s.kernel; }
    static std::int64_t ring_cols(const Shape& s) {
        return most(s.pad_left + s.width, (s.out_cols - 1) * s.stride + s.kernel);
    }

    static Shared shared_layout(const Call& c) {
        const Shape& s = c.shape;
        std::int64_t end = 0;
        const auto part = [&end](std::int64_t bytes) {
            const std::int64_t begin = end;
            end = round_up(end + bytes, kAlignment);
            return begin;
        };
        constexpr std::int64_t size = sizeof(Operand);
        Shared layout{};
        layout.result = part(s.out_pixels() * mid_padded(s) * size);
        layout.pooled = part(mid_padded(s) * 4);
        layout.gates = part(mid_padded(s) * 4);
        layout.squeezed = part(s.se_channels * 4);
        layout.output = part(c.ending == Ending::adapt_and_reduce ? s.out_pixels() * out_padded(s) * size : 0);
        layout.bytes = end;
        return layout;
    }

    static Own own_layout(const Call& c) {
        const Shape& s = c.shape;
        std::int64_t end = 0;
        const auto part = [&end](std::int64_t bytes) {
            const std::int64_t begin = end;
            end = round_up(end + bytes, kAlignment);
            return begin;
        };
        constexpr std::int64_t size = sizeof(Operand);
        Own layout{};
        layout.x = part(converts_x(s) ? s.in_pixels() * x_pitch(s) * size : 0);
        layout.ring = part((ring_rows(s) + 1) * ring_cols(s) * kGroup * kPair * size);
        layout.folded = part(s.se_channels > 0 ? round_up(s.mid_channels, 2) * kGroup * size : 0);
        layout.bytes = end;
        return layout;
    }

    static ScratchBytes scratch(const Call& c) { return {shared_layout(c).bytes, own_layout(c).bytes}; }

    // ---- the call's tensors
    // --------------------------------------------------------------------------------------------

    static const float* affine_of(const Call& c, std::int64_t image) {
        return c.affine + image / c.images_per_prefix * c.affine_stride;
    }

    static const S* image_of(const Call& c, std::int64_t image) {
        return static_cast<const S*>(c.x) + image * c.shape.in_pixels() * c.shape.in_channels;
    }
};

}  // namespace
}  // namespace dna_fast::mbconv
