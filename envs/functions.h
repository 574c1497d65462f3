// Elementwise functions of vectors, within 1e-7 or a float's precision of what they should be.

#pragma once

#include "vectors.h"

namespace {

inline Vec select(Mask mask, Vec yes, Vec no) { return mask ? yes : no; }

// exp(x) - 1 for |x| <= log(2) / 2.
inline Vec exponential_near_zero(Vec x) {
  Vec p = splat(1.9875691500e-4f);
  p = p * x + 1.3981999507e-3f;
  p = p * x + 8.3334519073e-3f;
  p = p * x + 4.1665795894e-2f;
  p = p * x + 1.6666665459e-1f;
  p = p * x + 5.0000001201e-1f;
  return p * (x * x) + x;
}

// Cephes' expf (Moshier): exp(x) = 2^n * exp(r), |r| <= log(2) / 2. NaN stays NaN.
inline Vec exponential(Vec x) {
  x = select(x > 88.0f, splat(88.0f), x);
  x = select(x < -87.0f, splat(-87.0f), x);
  // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
  const Vec shift = splat(12582912.0f);
  const Vec n = (x * 1.44269504088896341f + shift) - shift;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  const Mask exponent = (__builtin_convertvector(n, Mask) + 127) << 23;
  return (exponential_near_zero(r) + 1.0f) * (Vec)exponent;
}

// exp(x) - 1, without the digits that the difference loses near 0.
inline Vec exponential_less_one(Vec x) {
  const Vec size = select(x < 0.0f, -x, x);
  return select(size < 0.34f, exponential_near_zero(x), exponential(x) - 1.0f);
}

// 1 / (1 + exp(-x))
inline Vec logistic(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// Cephes' tanhf (Moshier): a polynomial near 0, where the quotient would lose digits.
inline Vec hyperbolic_tangent(Vec x) {
  const Vec size = select(x < 0.0f, -x, x);
  const Vec e = exponential(-2.0f * size);
  const Vec far = (1.0f - e) / (1.0f + e);
  const Vec z = x * x;
  Vec p = splat(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec near = x + x * z * p;
  return select(size < 0.625f, near, select(x < 0.0f, -far, far));
}

// (1 + erf(x / sqrt(2))) / 2, Abramowitz and Stegun 7.1.26: within 1e-7.
inline Vec normal_distribution(Vec x) {
  const Vec size = select(x < 0.0f, -x, x) * 0.70710678118654752f;
  const Vec t = 1.0f / (1.0f + 0.3275911f * size);
  Vec p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec tail = 0.5f * p * t * exponential(-size * size);
  return select(x < 0.0f, tail, 1.0f - tail);
}

inline Vec normal_density(Vec x) { return 0.3989422804014327f * exponential(-0.5f * x * x); }

}  // namespace
