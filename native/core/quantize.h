#pragma once
// Rows of 8 and 4 bits: unsigned steps, and behind them a scale and a bias of each row, in the layout of
// PyTorch and FBGEMM and with their rounding, bit for bit.
//
// int8: a byte for each value, then the scale and the bias as float32. int4: two values to a byte, the first
// in the lower half, then the scale and the bias as float16. A value is step * scale + bias, rounded once.

#include <cstddef>
#include <cstdint>

namespace shardwise {

enum class Quantized : std::uint8_t { int8, int4 };

constexpr std::size_t quantized_row_bytes(Quantized format, std::size_t dim) {
    return format == Quantized::int8 ? dim + 8 : dim / 2 + dim % 2 + 4;
}

struct Quantize {
    const std::byte *rows = nullptr;
    std::ptrdiff_t stride = 0; // bytes from a row to the next
    bool half = false;         // float16, else float32
    std::size_t dim = 0;       // at least 1
    Quantized format = Quantized::int8;
    std::uint8_t *out = nullptr; // rows of quantized_row_bytes, contiguous
};

struct Dequantize {
    const std::uint8_t *rows = nullptr;
    std::ptrdiff_t stride = 0;
    std::size_t dim = 0;
    Quantized format = Quantized::int8;
    float *out = nullptr; // rows of dim, contiguous
};

/// Returns `count`, or the first row that the format cannot hold: one with an infinity or a NaN in it, or
/// whose scale or bias would be infinite. `out` is then partly written.
std::size_t quantize(const Quantize &task, std::size_t count);

/// Takes any bytes; a NaN is always the same one.
void dequantize(const Dequantize &task, std::size_t count);

/// One instruction level's kernels: rows [begin, end). The first returns `end` or the first row refused.
struct QuantizeKernels {
    std::size_t (*quantize)(const Quantize &task, std::size_t begin, std::size_t end);
    void (*dequantize)(const Dequantize &task, std::size_t begin, std::size_t end);
};
QuantizeKernels quantize_kernels(std::size_t level);

} // namespace shardwise
