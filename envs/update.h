// What an update is given.

#pragma once

#include <cstdint>

// Where a matrix stands among a run's parameters, or a vector, which has one row.
struct Part {
  int64_t offset, rows, columns;
};

// The order and the types are those of `_Update` in native_update.py.
struct Update {
  int64_t n_rows, n_pieces, width;  // width: numbers from run to run of what runs keep
  const int64_t* sizes;             // of the pieces that gradients come in
  float* const* gradients;          // of each piece
  const int64_t* strides;           // of each piece, from run to run
  float* parameters;
  float* const* moments;
  float* accumulated;               // null if every micro-batch makes an update
  const float* scalars;             // (n_rows, N_SCALARS)
  double* sums;                     // (N_SUMS, n_rows)
  int64_t n_parts;
  const Part* parts;                // in the order of their offsets, each within one piece
};
