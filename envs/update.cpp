// The update of many runs, each by its own optimizer, and the sums that signals are made of, in one
// pass over what a run keeps. The optimizers' formulas come before this text: update_source.py
// makes them from the menu. Compiled by native_code.py.

#include <algorithm>
#include <cmath>
#include <vector>

#include "orthogonal.h"
#include "update.h"
#include "vectors.h"

namespace {

constexpr int N_SUMS = 7;
// Single precision sums no more vectors than this before it hands over to double.
constexpr int64_t CHUNK = 256 * LANES;

struct Row {
  const float* scalars;
  float* parameters;
  float* accumulated;
  float* moments[N_MOMENTS];
};

// The clipping factor of torch.nn.utils.clip_grad_norm_; NaN stays NaN.
float clipping(double square, float clip) {
  float factor = clip / (std::sqrt(float(square)) + 1e-6f);
  return factor > 1 ? 1 : factor;
}

template <class F>
inline __attribute__((always_inline)) void chunks(int64_t size, F f) {
  for (int64_t start = 0; start < size; start += CHUNK) f(start, std::min(start + CHUNK, size));
}

double square_of(const float* values, int64_t size) {
  double sum = 0;
  chunks(size, [&](int64_t start, int64_t end) {
    Vec square = {};
    for (int64_t i = start; i < end; i += LANES) {
      Vec value = load(values + i, end - i);
      square += value * value;
    }
    sum += total(square);
  });
  return sum;
}

// Adds the gradient to what has been gathered, or begins anew; the square of the mean.
double gather(float* gathered, const float* gradient, int64_t size, bool carried, float share) {
  double sum = 0;
  chunks(size, [&](int64_t start, int64_t end) {
    Vec square = {};
    for (int64_t i = start; i < end; i += LANES) {
      Vec value = load(gradient + i, end - i);
      if (carried) value += load(gathered + i, end - i);
      store(gathered + i, value, end - i);
      square += (share * value) * (share * value);
    }
    sum += total(square);
  });
  return sum;
}

// Moves a piece of a run and adds to the last six of its sums. The direction is that of the
// optimizer times the scale, or what is given where there is something.
template <int OPTIMIZER, bool GATHERED>
void move(const Row& row, const Scalars& s, float factor, const float* own, int64_t offset,
          int64_t size, double* sums, const float* given = nullptr, float scale = 1) {
  const Vec rate = splat(row.scalars[LEARNING_RATE]), decay = splat(row.scalars[WEIGHT_DECAY]);
  float* parameters = row.parameters + offset;
  chunks(size, [&](int64_t start, int64_t end) {
    Vec sum[N_SUMS - 1] = {};
    for (int64_t i = start; i < end; i += LANES) {
      const int64_t n = end - i;
      const Vec gradient = load(own + i, n), parameter = load(parameters + i, n);
      const Vec used = factor * (GATHERED ? load(row.accumulated + offset + i, n) : gradient);
      Vec before[N_MOMENTS], after[N_MOMENTS];
#pragma GCC unroll 16
      for (int k = 0; k < N_MOMENTS; k++) before[k] = load(row.moments[k] + offset + i, n);
      Vec direction = Rule<OPTIMIZER>::direction(s, used, before, after);
      if (Rule<OPTIMIZER>::ORTHOGONALISES)
        direction = given ? load(given + i, n) : scale * direction;
      const Vec change = -rate * (direction + decay * parameter);
      sum[0] += parameter * parameter;
      sum[1] += change * change;
      sum[2] += after[MEAN] * after[MEAN];
      sum[3] += gradient * before[MEAN];
      sum[4] += gradient * parameter;
      sum[5] += gradient * change;
      store(parameters + i, parameter + change, n);
#pragma GCC unroll 16
      for (int k = 0; k < N_MOMENTS; k++) store(row.moments[k] + offset + i, after[k], n);
    }
    for (int k = 0; k < N_SUMS - 1; k++) sums[k] += total(sum[k]);
  });
}

// Moves a matrix of a run, as a whole.
template <int OPTIMIZER, bool GATHERED>
void move_matrix(const Row& row, const Scalars& s, float factor, const float* own,
                 const Part& matrix, double* sums) {
  static thread_local std::vector<float> direction;
  const int64_t size = matrix.rows * matrix.columns, offset = matrix.offset;
  direction.resize(size);
  for (int64_t i = 0; i < size; i += LANES) {
    const int64_t n = size - i;
    const Vec used = factor * load(GATHERED ? row.accumulated + offset + i : own + i, n);
    Vec before[N_MOMENTS];
#pragma GCC unroll 16
    for (int k = 0; k < N_MOMENTS; k++) before[k] = load(row.moments[k] + offset + i, n);
    store(direction.data() + i, Rule<OPTIMIZER>::momentum(s, used, before), n);
  }
  orthogonalise(direction.data(), matrix.rows, matrix.columns);
  move<OPTIMIZER, GATHERED>(row, s, factor, own, offset, size, sums, direction.data());
}

// The sums of a micro-batch that makes no update.
void stay(const Row& row, const float* own, int64_t offset, int64_t size, double* sums) {
  const float* parameters = row.parameters + offset;
  const float* mean = row.moments[MEAN] + offset;
  chunks(size, [&](int64_t start, int64_t end) {
    Vec sum[4] = {};
    for (int64_t i = start; i < end; i += LANES) {
      const int64_t n = end - i;
      const Vec gradient = load(own + i, n), parameter = load(parameters + i, n);
      const Vec kept = load(mean + i, n);
      sum[0] += parameter * parameter;
      sum[1] += kept * kept;
      sum[2] += gradient * kept;
      sum[3] += gradient * parameter;
    }
    sums[0] += total(sum[0]);
    for (int k = 1; k < 4; k++) sums[k + 1] += total(sum[k]);
  });
}

template <class F>
void for_pieces(const Update& u, int64_t run, F f) {
  int64_t offset = 0;
  for (int64_t piece = 0; piece < u.n_pieces; piece++) {
    f(u.gradients[piece] + run * u.strides[piece], offset, u.sizes[piece]);
    offset += u.sizes[piece];
  }
}

template <int OPTIMIZER, bool GATHERED>
void move_row(const Update& u, int64_t run, const Row& row, float factor, double* sums) {
  const Scalars s(row.scalars);
  const Part* part = u.parts;
  const Part* last = part + (Rule<OPTIMIZER>::ORTHOGONALISES ? u.n_parts : 0);
  for_pieces(u, run, [&](const float* own, int64_t offset, int64_t size) {
    int64_t from = offset;
    const int64_t end = offset + size;
    for (; part < last && part->offset < end; part++) {
      move<OPTIMIZER, GATHERED>(row, s, factor, own + (from - offset), from, part->offset - from,
                                sums);
      const float* of_part = own + (part->offset - offset);
      if (part->rows > 1)
        move_matrix<OPTIMIZER, GATHERED>(row, s, factor, of_part, *part, sums);
      else
        move<OPTIMIZER, GATHERED>(row, s, factor, of_part, part->offset, part->columns, sums,
                                  nullptr, Rule<OPTIMIZER>::VECTOR_SCALE);
      from = part->offset + part->rows * part->columns;
    }
    move<OPTIMIZER, GATHERED>(row, s, factor, own + (from - offset), from, end - from, sums);
  });
}

void step_row(const Update& u, int64_t run) {
  Row row{u.scalars + run * N_SCALARS, u.parameters + run * u.width,
          u.accumulated ? u.accumulated + run * u.width : nullptr, {}};
  for (int k = 0; k < N_MOMENTS; k++) row.moments[k] = u.moments[k] + run * u.width;
  const float share = row.scalars[SHARE];
  double sums[N_SUMS] = {};
  double square = 0;  // of the update's gradient
  for_pieces(u, run, [&](const float* own, int64_t offset, int64_t size) {
    sums[0] += square_of(own, size);
    if (u.accumulated)
      square += gather(row.accumulated + offset, own, size, row.scalars[CARRIED] > 0, share);
  });
  if (row.scalars[APPLIED] > 0) {
    float factor = clipping(u.accumulated ? square : sums[0], row.scalars[GRADIENT_CLIP]);
    if (u.accumulated) factor *= share;
    switch (int(row.scalars[OPTIMIZER])) {
#define CASE(index) \
  case index:                                                      \
    if (u.accumulated)                                             \
      move_row<index, true>(u, run, row, factor, sums + 1);        \
    else                                                           \
      move_row<index, false>(u, run, row, factor, sums + 1);       \
    break;
      FOR_EACH_OPTIMIZER(CASE)
#undef CASE
    }
  } else {
    for_pieces(u, run, [&](const float* own, int64_t offset, int64_t size) {
      stay(row, own, offset, size, sums + 1);
    });
  }
  for (int k = 0; k < N_SUMS; k++) u.sums[k * u.n_rows + run] = sums[k];
}

}  // namespace

extern "C" void trainpilot_update(const Update* update) {
  DenormalsAreZeros mode;
  for (int64_t run = 0; run < update->n_rows; run++) step_row(*update, run);
}
