// Products of matrices of some dozens to hundreds of rows, where the libraries' own spend much of
// their time on getting started.

#pragma once

#include <algorithm>

#include "vectors.h"

namespace {

// c[i][j] = start[j] or start[i] + sum over l of a(i, l) * b[l][j], then ReLU.
struct Product {
  int64_t rows, columns, depth;
  const float* a;
  int64_t a_row, a_column;  // strides
  const float* b;
  int64_t b_row;
  float* c;
  int64_t c_row;
  const float* start;  // or null for zeros
  bool relu, start_by_row;
};

// ROWS x VECTORS accumulators; of the last vector only `last` lanes where CUT.
template <int ROWS, int VECTORS, bool CUT>
void multiply_tile(const Product& p, int64_t row, int64_t column, int64_t last) {
  auto lanes = [&](int j) { return CUT && j == VECTORS - 1 ? last : LANES; };
  Vec sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int j = 0; j < VECTORS; j++) {
    const bool by_column = p.start && !p.start_by_row;
    Vec start = by_column ? load(p.start + column + j * LANES, lanes(j)) : Vec{};
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++)
      sum[i][j] = p.start && p.start_by_row ? splat(p.start[row + i]) : start;
  }
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + column;
  const int64_t a_row = p.a_row, a_column = p.a_column, b_row = p.b_row;
  for (int64_t l = p.depth; l > 0; l--) {
    Vec value[VECTORS];
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) value[j] = load(b + j * LANES, lanes(j));
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      float factor = a[i * a_row];
#pragma GCC unroll 16
      for (int j = 0; j < VECTORS; j++) sum[i][j] += factor * value[j];
    }
    a += a_column;
    b += b_row;
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
    float* c = p.c + (row + i) * p.c_row + column;
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
      Vec value = sum[i][j];
      // NaN stays NaN, as with torch.
      if (p.relu) value = value < 0 ? Vec{} : value;
      store(c + j * LANES, value, lanes(j));
    }
  }
}

// Columns `column` to `column + (VECTORS - 1) * LANES + last`. As many rows at once as there are
// registers for, and enough to hide how long a multiplication takes.
template <int VECTORS, bool CUT>
void multiply_panel(const Product& p, int64_t column, int64_t last) {
#if defined(__AVX512F__)
  constexpr int ROWS = VECTORS >= 3 ? 6 : VECTORS == 2 ? 12 : 16;
#else
  constexpr int ROWS = VECTORS >= 3 ? 2 : VECTORS == 2 ? 4 : 8;
#endif
  int64_t row = 0;
  for (; row + ROWS <= p.rows; row += ROWS)
    multiply_tile<ROWS, VECTORS, CUT>(p, row, column, last);
  if (ROWS > 4)
    for (; row + 4 <= p.rows; row += 4) multiply_tile<4, VECTORS, CUT>(p, row, column, last);
  for (; row < p.rows; row++) multiply_tile<1, VECTORS, CUT>(p, row, column, last);
}

template <int VECTORS>
void multiply_panel(const Product& p, int64_t column, int64_t width) {
  int64_t last = width - (VECTORS - 1) * LANES;
  if (last == LANES)
    multiply_panel<VECTORS, false>(p, column, last);
  else
    multiply_panel<VECTORS, true>(p, column, last);
}

void multiply(const Product& p) {
  for (int64_t column = 0; column < p.columns; column += 4 * LANES) {
    int64_t width = std::min<int64_t>(p.columns - column, 4 * LANES);
    switch ((width + LANES - 1) / LANES) {
      case 1: multiply_panel<1>(p, column, width); break;
      case 2: multiply_panel<2>(p, column, width); break;
      case 3: multiply_panel<3>(p, column, width); break;
      default: multiply_panel<4>(p, column, width);
    }
  }
}

// A matrix (rows, columns) as (columns, padded rows), of which as many are written as make up whole
// vectors where `padded` leaves room for them; what is padded is 0.
inline void transpose(const float* from, int64_t rows, int64_t columns, float* to, int64_t padded) {
  for (int64_t row = 0; row < rows; row += LANES) {
    for (int64_t column = 0; column < columns; column += LANES) {
      const int64_t width = std::min<int64_t>(LANES, columns - column);
      Vec block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++)
        block[i] = row + i < rows ? load(from + (row + i) * columns + column, width) : Vec{};
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++)
        if (i < width) store(to + (column + i) * padded + row, block[i], padded - row);
    }
  }
}

// Sums the rows of (rows, columns).
void sum_rows(const float* values, int64_t rows, int64_t columns, float* sums) {
  for (int64_t column = 0; column < columns; column += LANES) {
    const int64_t width = std::min<int64_t>(LANES, columns - column);
    Vec sum = {};
    for (int64_t row = 0; row < rows; row++) sum += load(values + row * columns + column, width);
    store(sums + column, sum, width);
  }
}

// The gradient where ReLU let the output pass, and as torch does where that is NaN.
void through_relu(const float* gradient, const float* output, int64_t n, float* result) {
  for (int64_t i = 0; i < n; i += LANES) {
    Vec passed = load(output + i, n - i) <= 0 ? Vec{} : load(gradient + i, n - i);
    store(result + i, passed, n - i);
  }
}

}  // namespace
