// Max pooling of blocks of examples, with where each window's maximum was.

#pragma once

#include "images.h"

namespace {

constexpr uint8_t BLOCKED = 255;  // in an index: ReLU cut this one off, it has no gradient

// A window's maximum and the index of the first largest; a NaN wins, as in torch.
struct Maximum {
  Vec best;
  Mask which;

  explicit Maximum(const Vec& first) : best(first), which{} {}
  void add(const Vec& value, int32_t index) {
    Mask better = (value > best) | (value != value);
    best = better ? value : best;
    which = better ? Mask{} + index : which;
  }
  void cut_off_negative() {
    Mask off = best <= Vec{};
    best = off ? Vec{} : best;
    which = off ? Mask{} + int32_t(BLOCKED) : which;
  }
};

// A row of pooled pixels for examples [first, first + count). The windows' top row is row 0 of
// `source`.
//
// SIDE 2 is the window of nearly all networks, known to the compiler; SIDE 0 is any other.
template <int SIDE>
void pool_row(float* out, uint8_t* index, Block source, const Shape& s, int64_t py, int64_t first,
              int64_t count) {
  const int64_t high = SIDE ? SIDE : s.pool_height, wide = SIDE ? SIDE : s.pool_width;
  for (int64_t o = 0; o < s.out_channels; o++)
    for (int64_t px = 0; px < s.pooled_width; px++) {
      int64_t to = ((o * s.pooled_height + py) * s.pooled_width + px) * s.n_examples + first;
      const float* window = source.data + o * source.channel + px * wide * source.lanes;
      for (int64_t i = 0; i < count; i += LANES) {
        Maximum maximum(load(window + i, count - i));
        int32_t k = 0;
#pragma GCC unroll 2
        for (int64_t y = 0; y < high; y++)
#pragma GCC unroll 2
          for (int64_t x = 0; x < wide; x++, k++)
            maximum.add(load(window + y * source.row + x * source.lanes + i, count - i), k);
        if (s.relu) maximum.cut_off_negative();
        store(out + to + i, maximum.best, count - i);
        store_index(index + to + i, maximum.which, count - i);
      }
    }
}

// The reverse: each window's gradient where its maximum was, zeros elsewhere in the window.
// Lanes beyond `count` become zeros. `sums`, if given, takes in what each channel's windows pass on,
// a vector of examples each.
template <int SIDE>
void unpool_row(float* to, int64_t channel, int64_t row, int64_t lanes, float* sums,
                const float* gradient, const uint8_t* index, const Shape& s, int64_t py,
                int64_t first, int64_t count) {
  const int64_t high = SIDE ? SIDE : s.pool_height, wide = SIDE ? SIDE : s.pool_width;
  for (int64_t o = 0; o < s.out_channels; o++) {
    Vec sum = {};
    for (int64_t px = 0; px < s.pooled_width; px++) {
      int64_t from = ((o * s.pooled_height + py) * s.pooled_width + px) * s.n_examples + first;
      float* window = to + o * channel + px * wide * lanes;
      for (int64_t i = 0; i < lanes; i += LANES) {
        Vec value = load(gradient + from + i, count - i);
        Mask which = load_index(index + from + i, count - i);
        int32_t k = 0;
        sum += which == int32_t(BLOCKED) ? Vec{} : value;
#pragma GCC unroll 2
        for (int64_t y = 0; y < high; y++)
#pragma GCC unroll 2
          for (int64_t x = 0; x < wide; x++, k++)
            store(window + y * row + x * lanes + i, which == k ? value : Vec{}, lanes - i);
      }
    }
    if (sums) at(sums + o * LANES) += sum;
  }
}

}  // namespace
