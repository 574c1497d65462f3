// Layers that do the same to every number, forward and back.

#pragma once

#include "functions.h"
#include "layers.h"
#include "products.h"

namespace {

// to[i] = f(...)[i], where f reads what it needs at the same places.
template <class F>
inline void map(float* to, int64_t n, F f) {
  for (int64_t i = 0; i < n; i += LANES)
    store(to + i, f([&](const float* p) { return load(p + i, n - i); }), n - i);
}

// Layers of other kinds do nothing here.
void activate(const Layer& layer, const float* from, int64_t n, float* to) {
  const float constant = layer.constant;
  switch (layer.kind) {
    case RELU: map(to, n, [&](auto at) { return select(at(from) < 0, Vec{}, at(from)); }); break;
    case TANH: map(to, n, [&](auto at) { return hyperbolic_tangent(at(from)); }); break;
    case GELU: map(to, n, [&](auto at) { return at(from) * normal_distribution(at(from)); }); break;
    case SILU: map(to, n, [&](auto at) { return at(from) * logistic(at(from)); }); break;
    case SIGMOID: map(to, n, [&](auto at) { return logistic(at(from)); }); break;
    case LEAKY_RELU:
      map(to, n, [&](auto at) { return select(at(from) > 0, at(from), constant * at(from)); });
      break;
    case ELU:
      map(to, n, [&](auto at) {
        return select(at(from) > 0, at(from), constant * exponential_less_one(at(from)));
      });
      break;
    default: break;
  }
}

// Turns the gradient by the outputs, `result`, into that by the inputs, `from`.
void activate_back(const Layer& layer, const float* from, const float* result, int64_t n,
                   float* delta) {
  const float constant = layer.constant;
  switch (layer.kind) {
    case RELU: through_relu(delta, result, n, delta); break;
    case TANH:
      map(delta, n, [&](auto at) { return at(delta) * (1.0f - at(result) * at(result)); });
      break;
    case GELU:
      map(delta, n, [&](auto at) {
        const Vec x = at(from);
        return at(delta) * (normal_distribution(x) + x * normal_density(x));
      });
      break;
    case SILU:
      map(delta, n, [&](auto at) {
        const Vec share = logistic(at(from));
        return at(delta) * share * (1.0f + at(from) * (1.0f - share));
      });
      break;
    case SIGMOID:
      map(delta, n, [&](auto at) { return at(delta) * at(result) * (1.0f - at(result)); });
      break;
    case LEAKY_RELU:
      map(delta, n,
          [&](auto at) { return select(at(from) > 0, at(delta), constant * at(delta)); });
      break;
    case ELU:
      map(delta, n, [&](auto at) {
        return select(at(from) > 0, at(delta), constant * at(delta) * exponential(at(from)));
      });
      break;
    default: break;
  }
}

}  // namespace
