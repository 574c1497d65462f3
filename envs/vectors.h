// Vectors of floats, as wide as the processor has them: the vector extension of GCC and Clang.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE__)
#include <xmmintrin.h>
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
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }

inline Vec splat(float value) { return Vec{} + value; }

#if defined(__AVX512F__)
inline __mmask16 lanes_below(int64_t count) {
  return __mmask16(count <= 0 ? 0 : (1u << count) - 1);
}
#endif

// Up to LANES numbers; the lanes beyond are zeros, and are not stored. The full ones are a branch
// of their own: a copy of a length that only the call knows is a call of memcpy.
inline Vec load(const float* from, int64_t count) {
  if (count >= LANES) return at(from);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(lanes_below(count), from);
#else
  Vec value = {};
  if (count > 0) std::memcpy(&value, from, count * sizeof(float));
  return value;
#endif
}
inline void store(float* to, const Vec& value, int64_t count) {
  if (count >= LANES) {
    at(to) = value;
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, lanes_below(count), (__m512)value);
#else
  if (count > 0) std::memcpy(to, &value, count * sizeof(float));
#endif
}
inline Mask load_index(const uint8_t* from, int64_t count) {
  Bytes bytes = {};
  if (count >= LANES)
    std::memcpy(&bytes, from, LANES);
  else if (count > 0)
    std::memcpy(&bytes, from, count);
  return __builtin_convertvector(bytes, Mask);
}
inline void store_index(uint8_t* to, const Mask& which, int64_t count) {
  Bytes bytes = __builtin_convertvector(which, Bytes);
  if (count >= LANES)
    std::memcpy(to, &bytes, LANES);
  else
    std::memcpy(to, &bytes, count);
}

template <class F, int... I>
inline __attribute__((always_inline)) void unrolled(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
// Calls f(0), ..., f(N - 1) with constants, so that arrays of accumulators become registers.
template <int N, class F>
inline __attribute__((always_inline)) void unrolled(F f) {
  unrolled(f, std::make_integer_sequence<int, N>{});
}

// Halves added until one is left: a fixed order, and few instructions.
template <int N>
float lane_sum(const float* lanes) {
  if constexpr (N == 1) {
    return *lanes;
  } else {
    typedef float Half __attribute__((vector_size(N / 2 * 4)));
    Half low, high;
    std::memcpy(&low, lanes, sizeof low);
    std::memcpy(&high, lanes + N / 2, sizeof high);
    low += high;
    return lane_sum<N / 2>(reinterpret_cast<const float*>(&low));
  }
}

inline double total(const Vec& value) {
  return lane_sum<LANES>(&reinterpret_cast<const float&>(value));
}

// Zeros behind the first `count` lanes.
template <int... I>
inline Vec first_lanes(const Vec& value, int64_t count, std::integer_sequence<int, I...>) {
  const Mask places = {I...};
  return places < int32_t(count) ? value : Vec{};
}
inline Vec first_lanes(const Vec& value, int64_t count) {
  return first_lanes(value, count, std::make_integer_sequence<int, LANES>{});
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

// The lower and the upper halves of two vectors, their lanes taken in turns.
template <int... I>
inline Vec lower_in_turns(const Vec& a, const Vec& b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * LANES)...);
#else
  return Vec{(I % 2 ? b : a)[I / 2]...};
#endif
}
template <int... I>
inline Vec upper_in_turns(const Vec& a, const Vec& b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (LANES / 2 + I / 2 + I % 2 * LANES)...);
#else
  return Vec{(I % 2 ? b : a)[LANES / 2 + I / 2]...};
#endif
}

// Lane i of vector j becomes lane j of vector i. Each round puts the vectors' first halves and
// second halves in turns, which moves one bit of a vector's number into its lanes' number.
inline __attribute__((always_inline)) void transpose(Vec (&vectors)[LANES]) {
  constexpr auto lanes = std::make_integer_sequence<int, LANES>{};
#pragma GCC unroll 4
  for (int round = 1; round < LANES; round *= 2) {
    Vec mixed[LANES];
    unrolled<LANES / 2>([&](auto i) {
      mixed[2 * i] = lower_in_turns(vectors[i], vectors[i + LANES / 2], lanes);
      mixed[2 * i + 1] = upper_in_turns(vectors[i], vectors[i + LANES / 2], lanes);
    });
    unrolled<LANES>([&](auto i) { vectors[i] = mixed[i]; });
  }
}

// The sum of each vector's lanes: many at once, as one alone is a chain of waiting.
inline Vec totals(Vec (&vectors)[LANES]) {
  transpose(vectors);
#pragma GCC unroll 4
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) vectors[i] += vectors[i + half];
  return vectors[0];
}

// As long as it lives, numbers too small for full precision are zeros. Moments that fade end among
// them, where arithmetic is many times slower (measured: whole steps two to three times).
class DenormalsAreZeros {
#if defined(__SSE__)
 public:
  DenormalsAreZeros() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~DenormalsAreZeros() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

}  // namespace
