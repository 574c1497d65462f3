// Vectors of floats as wide as the machine has them, by the vector extension of GCC and Clang.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// May stand at any float's address, and may look at what is declared as plain floats.
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(LANES * 4)));

inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }
inline Vec splat(float value) { return Vec{} + value; }

// The first `n` lanes, the others 0; nothing is read beyond them.
inline Vec load(const float* p, int64_t n) {
  if (n >= LANES) return at(p);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  float lanes[LANES] = {};
  std::memcpy(lanes, p, n * sizeof(float));
  return at(lanes);
#endif
}

inline void store(float* p, Vec value, int64_t n) {
  if (n >= LANES) {
    at(p) = value;
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)value);
#else
  std::memcpy(p, &value, n * sizeof(float));
#endif
}

// Zeros behind the first `n` lanes.
inline Vec first(Vec value, int64_t n) {
  float lanes[LANES];
  at(lanes) = value;
  return load(lanes, n);
}

inline Vec root(Vec value) {
#if defined(__AVX512F__)
  return (Vec)_mm512_sqrt_ps((__m512)value);
#else
  for (int i = 0; i < LANES; i++) value[i] = __builtin_sqrtf(value[i]);
  return value;
#endif
}

// As torch.sign: 0 for NaN.
inline Vec sign(Vec value) {
  Vec one = splat(1), zero = {};
  return (value > zero ? one : zero) - (value < zero ? one : zero);
}

inline double total(Vec value) {
  double sum = 0;
  for (int i = 0; i < LANES; i++) sum += value[i];
  return sum;
}

}  // namespace
