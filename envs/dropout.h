// Dropout by a key, as `KeyedDropout` in mappable.py: the same masks.

#pragma once

#include "activations.h"

namespace {

typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));

// Wellons' lowbias32.
inline Bits mixed(Bits x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

template <int... I>
inline Bits bits_from(uint32_t first, std::integer_sequence<int, I...>) {
  return Bits{I...} + first;
}

// Zeros with probability p, below 1; all else is scaled up. A gradient goes the same way back.
void drop(const float* from, int64_t n, uint64_t key, double p, float* to) {
  const uint32_t low = key, high = key >> 32, threshold = p * 4294967296.0;
  const float rest = 1 - p;
  for (int64_t i = 0; i < n; i += LANES) {
    const Bits places = bits_from(low + i, std::make_integer_sequence<int, LANES>{});
    const Bits bits = mixed(mixed(places ^ high) ^ low);
    store(to + i, select(bits >= threshold, load(from + i, n - i) / rest, Vec{}), n - i);
  }
}

}  // namespace
