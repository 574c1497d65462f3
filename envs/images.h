// Images of a batch as blocks of examples: (channel, row, column, example).

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "memory.h"
#include "vectors.h"

namespace {

// How an input lies in memory: as all else does; (example, channel, row, column), as data come; or
// as `pack` makes it, once for all who read it.
enum Order : int64_t { EXAMPLES_LAST, EXAMPLES_FIRST, PACKED };

// The order and the types are those of `KernelShape` in convolution.py.
struct Shape {
  int64_t n_rows, input_stride, weight_stride, bias_stride;  // strides from run to run
  int64_t n_examples, in_channels, in_height, in_width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t stride_height, stride_width, padding_height, padding_width;
  int64_t pool_height, pool_width;  // pooling windows do not overlap; 1 x 1 without pooling
  int64_t relu;
  int64_t pooled_height, pooled_width;
  int64_t order;  // of the input alone: an Order

  // Only the part of the convolution that some pooling window covers is ever computed.
  int64_t out_height() const { return pooled_height * pool_height; }
  int64_t out_width() const { return pooled_width * pool_width; }
  int64_t n_outputs() const { return out_channels * pooled_height * pooled_width * n_examples; }
  int64_t n_inputs() const { return in_channels * in_height * in_width * n_examples; }
  int64_t n_taps() const { return kernel_height * kernel_width; }
  int64_t n_weights() const { return out_channels * in_channels * n_taps(); }
  bool pairs() const { return pool_height == 2 && pool_width == 2; }
  bool plain() const { return pool_height * pool_width == 1 && !relu; }
};

// Where a dense block of examples lies: floats from channel to channel, from row to row and from
// pixel to pixel, which is how many lanes it has.
struct Block {
  const float* data;
  int64_t channel, row, lanes;
};

// Rows and channels an odd number of pixels apart. At powers of two they would all fall into the
// same few lines of the nearest cache and drive each other out (measured: 45 GFLOP/s, not 100).
struct Pitch {
  int64_t row, channel;
  Pitch(int64_t height, int64_t width) : row(width | 1), channel((height * row) | 1) {}
};
bool spreads(int64_t channels, int64_t height, int64_t width) {
  return width % 8 && (channels == 1 || height * width % 8);
}

// Zeros around an image's rows and columns.
struct Border {
  int64_t height, width;
};

// A walk over an image's pixels in the order of its rows, to where a block keeps each of them.
class Walk {
 public:
  Walk(float* first_row, const Block& block, int64_t height, int64_t width)
      : row_(first_row), block_(block), height_(height), width_(width), to_(first_row) {}
  float* next() {
    float* here = to_;
    to_ += block_.lanes;
    if (++x_ == width_) {
      x_ = 0;
      bool last = ++y_ % height_ == 0;
      row_ += last ? block_.channel - (height_ - 1) * block_.row : block_.row;
      to_ = row_;
    }
    return here;
  }

 private:
  float* row_;
  const Block& block_;
  int64_t height_, width_;
  float* to_;
  int64_t x_ = 0, y_ = 0;
};

// `count` images of `n_pixels` in all channels, one after the other or (unless null) those that
// `chosen` numbers, to where `to` walks.
void pack_examples_first(Walk to, int64_t lanes, const float* images, const int32_t* chosen,
                         int64_t count, int64_t n_pixels) {
  for (int64_t p = 0; p < n_pixels; p += LANES) {
    int64_t n = std::min<int64_t>(LANES, n_pixels - p);
    float* pixels[LANES];
    for (int64_t i = 0; i < n; i++) pixels[i] = to.next();
    for (int64_t lane = 0; lane < lanes; lane += LANES) {
      Vec values[LANES];
      for (int64_t i = 0; i < LANES; i++)
        values[i] = lane + i < count
                        ? load(images + (chosen ? chosen[lane + i] : lane + i) * n_pixels + p, n)
                        : Vec{};
      transpose(values);
      for (int64_t i = 0; i < n; i++) at(pixels[i] + lane) = values[i];
    }
  }
}

void pack_examples_last(Walk to, int64_t lanes, const float* from, int64_t n_examples,
                        int64_t count, int64_t n_pixels) {
  for (int64_t p = 0; p < n_pixels; p++, from += n_examples) {
    float* pixel = to.next();
    for (int64_t lane = 0; lane < lanes; lane += LANES)
      at(pixel + lane) = load(from + lane, count - lane);
  }
}

// Examples that are worked on together, beginning with `first`.
int64_t block_lanes(const Shape& s, int64_t first) {
  return s.n_examples - first <= LANES ? LANES : 2 * LANES;
}

Border border_of(const Shape& s) { return {s.padding_height, s.padding_width}; }
Pitch pitch_of(const Shape& s) {
  return {s.in_height + 2 * s.padding_height, s.in_width + 2 * s.padding_width};
}
int64_t packed_size(const Shape& s, int64_t lanes) {
  return s.in_channels * pitch_of(s).channel * lanes;
}
Block packed_block(const float* packed, const Shape& s, int64_t lanes) {
  return {packed, pitch_of(s).channel * lanes, pitch_of(s).row * lanes, lanes};
}

// Examples [first, first + lanes) of one run's input, or of those that `chosen` numbers; zeros for
// the lanes beyond the last one and for a border.
void pack_block(float* packed, const float* input, const int32_t* chosen, const Shape& s,
                int64_t first, int64_t lanes) {
  const Border border = border_of(s);
  if (border.height || border.width)
    std::memset(packed, 0, packed_size(s, lanes) * sizeof(float));
  Block block = packed_block(packed, s, lanes);
  Walk walk(packed + border.height * block.row + border.width * lanes, block, s.in_height,
            s.in_width);
  int64_t count = std::min(lanes, s.n_examples - first);
  int64_t n_pixels = s.in_channels * s.in_height * s.in_width;
  if (chosen)
    pack_examples_first(walk, lanes, input, chosen + first, count, n_pixels);
  else if (s.order == EXAMPLES_FIRST)
    pack_examples_first(walk, lanes, input + first * n_pixels, nullptr, count, n_pixels);
  else
    pack_examples_last(walk, lanes, input + first, s.n_examples, count, n_pixels);
}

// The input itself where it is such a block already.
Block input_block(Buffer& packed, const float* input, const Shape& s, int64_t first,
                  int64_t lanes) {
  const Border border = border_of(s);
  // All blocks before this one are whole.
  if (s.order == PACKED) return packed_block(input + packed_size(s, first), s, lanes);
  if (s.n_examples == lanes && s.order == EXAMPLES_LAST && !border.height && !border.width &&
      spreads(s.in_channels, s.in_height, s.in_width))
    return {input, s.in_height * s.in_width * lanes, s.in_width * lanes, lanes};
  packed.resize(packed_size(s, lanes));
  pack_block(packed.data(), input, nullptr, s, first, lanes);
  return packed_block(packed.data(), s, lanes);
}

}  // namespace
