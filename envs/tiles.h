// Register tiles: sums over channels and taps for a block of channels at a few places at once.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "images.h"
#include "memory.h"
#include "pooling.h"
#include "vectors.h"

namespace {

// The taps of a kernel that meet the input at one place along one axis, as two arithmetic
// sequences: the taps, and where in the source they read.
struct Taps {
  int64_t tap, tap_step, source, source_step, count;
};

// Output `i` of a convolution reads input i * stride + tap, of a padded input.
Taps forward_taps(int64_t i, int64_t kernel, int64_t stride) {
  return {0, 1, i * stride, 1, kernel};
}

// Input `i` was read by output (i + padding - tap) / stride, where that is a whole number.
Taps backward_taps(int64_t i, int64_t kernel, int64_t stride, int64_t padding, int64_t n_out) {
  int64_t reach = i + padding;
  int64_t first = reach % stride;
  int64_t source = reach / stride;  // of the first tap
  if (source >= n_out) {
    first += (source - n_out + 1) * stride;
    source = n_out - 1;
  }
  if (first >= kernel) return {0, 0, 0, 0, 0};
  int64_t count = std::min((kernel - first + stride - 1) / stride, source + 1);
  return {first, stride, source, -1, count};
}

// The taps of any of `n` neighbouring inputs at stride 1, for the first of them. What the others
// read beside the source must be zeros, n - 1 columns of them on either side.
Taps shared_taps(int64_t i, int64_t n, int64_t kernel, int64_t padding, int64_t n_out) {
  int64_t reach = i + padding;
  int64_t first = std::max<int64_t>(0, reach - n_out + 1);
  int64_t end = std::min(kernel, reach + n);
  return {first, 1, reach - first, -1, std::max<int64_t>(0, end - first)};
}

// What is summed: weight * source over channels and taps. The weights are packed (channel, tap
// row, tap column, output channel of the block).
struct Window {
  Block source;
  int64_t n_channels;
  const float* weights;
  int64_t kernel_height, kernel_width;
  Taps rows, columns;
};

// Onto `sum`, for BLOCK output channels and VECTORS places. The places lie at these offsets from
// where the window's taps say.
template <int BLOCK, int VECTORS>
inline __attribute__((always_inline)) void gather(Vec (&sum)[BLOCK][VECTORS], const Window& window,
                                                  const int64_t* offsets) {
  const Taps rows = window.rows, columns = window.columns;
  int64_t offset[VECTORS];
  unrolled<VECTORS>([&](auto j) { offset[j] = offsets[j]; });
  const int64_t source_step = columns.source_step * window.source.lanes;
  const int64_t weight_step = columns.tap_step * BLOCK;
  for (int64_t c = 0; c < window.n_channels; c++)
    for (int64_t a = 0; a < rows.count; a++) {
      const float* s = window.source.data + c * window.source.channel +
                       (rows.source + a * rows.source_step) * window.source.row +
                       columns.source * window.source.lanes;
      const float* w = window.weights +
                       ((c * window.kernel_height + rows.tap + a * rows.tap_step) *
                            window.kernel_width + columns.tap) * BLOCK;
      for (int64_t b = 0; b < columns.count; b++) {
        Vec value[VECTORS];
        unrolled<VECTORS>([&](auto j) { value[j] = at(s + offset[j]); });
        unrolled<BLOCK>([&](auto o) {
          unrolled<VECTORS>([&](auto j) { sum[o][j] += w[o] * value[j]; });
        });
        s += source_step;
        w += weight_step;
      }
    }
}

template <int BLOCK, int VECTORS>
inline __attribute__((always_inline)) void begin(Vec (&sum)[BLOCK][VECTORS], const float* start) {
  unrolled<BLOCK>([&](auto o) {
    unrolled<VECTORS>([&](auto j) { sum[o][j] = start ? Vec{} + start[o] : Vec{}; });
  });
}

// The sums themselves, each place at its offset from `out`; on top of `start`, one number for
// each channel, or of zeros.
template <int BLOCK, int VECTORS>
void plain_tile(float* out, int64_t out_channel, const int64_t* out_offsets, const float* start,
                const Window& window, const int64_t* offsets) {
  Vec sum[BLOCK][VECTORS];
  begin(sum, start);
  gather(sum, window, offsets);
  unrolled<BLOCK>([&](auto o) {
    unrolled<VECTORS>([&](auto j) { at(out + o * out_channel + out_offsets[j]) = sum[o][j]; });
  });
}

// The maximum of each channel's four sums, for up to LANES examples.
template <int BLOCK>
void pooled_tile(float* out, uint8_t* index, int64_t out_channel, int64_t count, bool relu,
                 const float* start, const Window& window, const int64_t* offsets) {
  // What is written lies far apart: it is fetched while the sums are made.
  unrolled<BLOCK>([&](auto o) {
    __builtin_prefetch(out + o * out_channel, 1);
    __builtin_prefetch(index + o * out_channel, 1);
  });
  Vec sum[BLOCK][4];
  begin(sum, start);
  gather(sum, window, offsets);
  unrolled<BLOCK>([&](auto o) {
    Maximum maximum(sum[o][0]);
    unrolled<3>([&](auto j) { maximum.add(sum[o][j + 1], j + 1); });
    if (relu) maximum.cut_off_negative();
    store(out + o * out_channel, maximum.best, count);
    store_index(index + o * out_channel, maximum.which, count);
  });
}

// BLOCK x TAPS weights' gradients, each still a vector of partial sums over the examples, from
// rows of segments of vectors that lie side by side in the gradient and in the input.
struct Segments {
  const float* gradient;
  int64_t gradient_channel, gradient_row;
  const float* input;
  int64_t input_row, input_segment, lanes;
  int64_t n_rows, n_segments, n_vectors;
};
template <int BLOCK, int TAPS>
void correlate(float* partial, int64_t partial_stride, const Segments& segments) {
  Vec sum[BLOCK][TAPS];
  unrolled<BLOCK>([&](auto o) {
    unrolled<TAPS>([&](auto t) { sum[o][t] = at(partial + o * partial_stride + t * LANES); });
  });
  const int64_t gradient_channel = segments.gradient_channel, lanes = segments.lanes;
  for (int64_t y = 0; y < segments.n_rows; y++) {
    const float* g = segments.gradient + y * segments.gradient_row;
    for (int64_t x = 0; x < segments.n_segments; x++) {
      const float* s = segments.input + y * segments.input_row + x * segments.input_segment;
      for (int64_t i = 0; i < segments.n_vectors; i++) {
        Vec value[TAPS];
        unrolled<TAPS>([&](auto t) { value[t] = at(s + t * lanes); });
        unrolled<BLOCK>([&](auto o) {
          Vec of = at(g + o * gradient_channel);
          unrolled<TAPS>([&](auto t) { sum[o][t] += of * value[t]; });
        });
        g += LANES;
        s += LANES;
      }
    }
  }
  unrolled<BLOCK>([&](auto o) {
    unrolled<TAPS>([&](auto t) { at(partial + o * partial_stride + t * LANES) = sum[o][t]; });
  });
}

// Sums per register block: enough of them to hide the latency of an addition, and with the
// operands no more than the 32 (AVX-512, NEON) or 16 vector registers.
#if defined(__AVX512F__) || !defined(__AVX__)
constexpr int MOST_SUMS = 24;
#else
constexpr int MOST_SUMS = 12;
#endif
constexpr int PLACES = 4;
constexpr int MOST_CHANNELS = MOST_SUMS / PLACES;
constexpr int MOST_TAPS = 5;
constexpr int most_correlated(int taps) { return taps == 1 ? 8 : std::min(4, MOST_SUMS / taps); }

// Channels in equal blocks: 16 in blocks of at most 12 are 8 + 8, and not 12 + 4.
int64_t even_block(int64_t n, int64_t most) {
  int64_t n_blocks = (n + most - 1) / most;
  return (n + n_blocks - 1) / n_blocks;
}

using Plain = void (*)(float*, int64_t, const int64_t*, const float*, const Window&,
                       const int64_t*);
template <int VECTORS, int... I>
Plain plain_kernel(int64_t block, std::integer_sequence<int, I...>) {
  static constexpr Plain table[] = {plain_tile<I + 1, VECTORS>...};
  return table[block - 1];
}

using Pooled = void (*)(float*, uint8_t*, int64_t, int64_t, bool, const float*, const Window&,
                        const int64_t*);
template <int... I>
Pooled pooled_kernel(int64_t block, std::integer_sequence<int, I...>) {
  static constexpr Pooled table[] = {pooled_tile<I + 1>...};
  return table[block - 1];
}

constexpr auto CHANNELS = std::make_integer_sequence<int, MOST_CHANNELS>{};

using Correlate = void (*)(float*, int64_t, const Segments&);
template <int TAPS, int... I>
Correlate correlate_kernel(int64_t block, std::integer_sequence<int, I...>) {
  static constexpr Correlate table[] = {correlate<I + 1, TAPS>...};
  return table[block - 1];
}
template <int TAPS = 1>
Correlate correlate_kernel(int64_t block, int64_t taps) {
  if constexpr (TAPS < MOST_TAPS)
    if (taps > TAPS) return correlate_kernel<TAPS + 1>(block, taps);
  return correlate_kernel<TAPS>(block, std::make_integer_sequence<int, most_correlated(TAPS)>{});
}

// One run's weights (out, in, row, column) in blocks of output channels, or `transposed`, of input
// channels.
class Weights {
 public:
  void pack(const float* weight, const Shape& s, bool transposed) {
    n_taps_ = s.n_taps();
    int64_t out_step = s.in_channels * n_taps_, in_step = n_taps_;
    n_channels_ = s.out_channels, n_summed_ = s.in_channels;
    if (transposed) {
      std::swap(out_step, in_step);
      std::swap(n_channels_, n_summed_);
    }
    block_ = even_block(n_channels_, MOST_CHANNELS);
    packed_.resize(n_channels_ * n_summed_ * n_taps_);
    float* to = packed_.data();
    for (int64_t first = 0; first < n_channels_; first += block_)
      for (int64_t c = 0; c < n_summed_; c++)
        for (int64_t t = 0; t < n_taps_; t++)
          for (int64_t o = first; o < first + size(first); o++)
            *to++ = weight[o * out_step + c * in_step + t];
  }
  int64_t n_channels() const { return n_channels_; }
  int64_t block() const { return block_; }
  int64_t size(int64_t first) const { return std::min(block_, n_channels_ - first); }
  int64_t size_of_block() const { return block_ * n_summed_ * n_taps_; }
  const float* of(int64_t first) const { return packed_.data() + first * n_summed_ * n_taps_; }

 private:
  Buffer packed_;
  int64_t n_channels_ = 0, n_summed_ = 0, n_taps_ = 0, block_ = 1;
};

// Neighbouring pixels of a row that make up a tile: PLACES vectors.
int64_t tile_pixels(int64_t lanes) { return PLACES * LANES / lanes; }

}  // namespace
