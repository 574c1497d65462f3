// Matrices brought near the closest one with orthonormal rows or columns: what `orthogonalised` in
// orthogonal.py does; its numbers come before this text.

#pragma once

#include <cmath>
#include <vector>

#include "products.h"

namespace {

// values = a * values + b * others
inline void mix(float a, float* values, float b, const float* others, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES)
    store(values + i, a * load(values + i, size - i) + b * load(others + i, size - i), size - i);
}

// (rows, columns), in place.
void orthogonalise(float* matrix, int64_t rows, int64_t columns) {
  static thread_local std::vector<float> room;
  const bool tall = rows > columns;
  const int64_t r = std::min(rows, columns), c = std::max(rows, columns), size = r * c;
  room.resize(3 * size + 2 * r * r);
  float *x = tall ? room.data() : matrix, *turned = room.data() + size, *product = turned + size;
  float *gram = product + size, *square = gram + r * r;
  if (tall) transpose(matrix, rows, columns, x, rows);
  double sum = 0;
  for (int64_t start = 0; start < size; start += 256 * LANES) {
    Vec squares = {};
    for (int64_t i = start; i < std::min(start + 256 * LANES, size); i += LANES) {
      const Vec value = load(x + i, size - i);
      squares += value * value;
    }
    sum += total(squares);
  }
  const float norm = std::sqrt(float(sum));  // NaN stays NaN
  mix(1 / (norm < SMALLEST_NORM ? SMALLEST_NORM : norm), x, 0, x, size);
  for (int i = 0; i < N_ITERATIONS; i++) {
    transpose(x, r, c, turned, r);
    multiply({r, r, c, x, c, 1, turned, r, gram, r, nullptr, false, false});
    multiply({r, r, r, gram, r, 1, gram, r, square, r, nullptr, false, false});
    mix(POLYNOMIAL[1], gram, POLYNOMIAL[2], square, r * r);
    multiply({r, c, r, gram, r, 1, x, c, product, c, nullptr, false, false});
    mix(POLYNOMIAL[0], x, 1, product, size);
  }
  mix(ROOT_MEAN_SQUARE * std::sqrt(float(c)), x, 0, x, size);
  if (tall) transpose(x, columns, rows, matrix, columns);
}

}  // namespace
