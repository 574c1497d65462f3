// Images of a batch as blocks of examples: (channel, row, column, example).

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "memory.h"
#include "vectors.h"

namespace {

// The order and the types are those of `KernelShape` in convolution.py.
struct Shape {
  int64_t n_rows, input_stride, weight_stride, bias_stride;  // strides from run to run
  int64_t n_examples, in_channels, in_height, in_width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t stride_height, stride_width, padding_height, padding_width;
  int64_t pool_height, pool_width;  // pooling windows do not overlap; 1 x 1 without pooling
  int64_t relu;
  int64_t pooled_height, pooled_width;
  int64_t examples_first;  // the input alone: (example, channel, row, column), as data come

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

// `count` images one after the other, of `n_pixels` in all channels, to where `to` walks.
void pack_examples_first(Walk to, int64_t lanes, const float* images, int64_t count,
                         int64_t n_pixels) {
  for (int64_t p = 0; p < n_pixels; p += LANES) {
    int64_t n = std::min<int64_t>(LANES, n_pixels - p);
    float* pixels[LANES];
    for (int64_t i = 0; i < n; i++) pixels[i] = to.next();
    for (int64_t lane = 0; lane < lanes; lane += LANES) {
      Vec values[LANES];
      for (int64_t i = 0; i < LANES; i++)
        values[i] = load(images + (lane + i) * n_pixels + p, lane + i < count ? n : 0);
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

// Examples [first, first + lanes) of one run's input, zeros for the lanes beyond the last one and
// for a border.
Block pack_input(Buffer& packed, const float* input, const Shape& s, int64_t first, int64_t lanes,
                 Border border) {
  Pitch pitch(s.in_height + 2 * border.height, s.in_width + 2 * border.width);
  packed.resize(s.in_channels * pitch.channel * lanes);
  if (border.height || border.width)
    std::memset(packed.data(), 0, packed.size() * sizeof(float));
  Block block = {packed.data(), pitch.channel * lanes, pitch.row * lanes, lanes};
  float* inside = packed.data() + border.height * block.row + border.width * lanes;
  Walk walk(inside, block, s.in_height, s.in_width);
  int64_t count = std::min(lanes, s.n_examples - first);
  int64_t n_pixels = s.in_channels * s.in_height * s.in_width;
  if (s.examples_first)
    pack_examples_first(walk, lanes, input + first * n_pixels, count, n_pixels);
  else
    pack_examples_last(walk, lanes, input + first, s.n_examples, count, n_pixels);
  return block;
}

// The input itself where it is such a block already.
Block input_block(Buffer& packed, const float* input, const Shape& s, int64_t first,
                  int64_t lanes) {
  Border border = {s.padding_height, s.padding_width};
  if (s.n_examples == lanes && !s.examples_first && !border.height && !border.width &&
      spreads(s.in_channels, s.in_height, s.in_width))
    return {input, s.in_height * s.in_width * lanes, s.in_width * lanes, lanes};
  return pack_input(packed, input, s, first, lanes, border);
}

}  // namespace
