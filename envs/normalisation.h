// Layers that normalise each example, forward and back: LayerNorm (Ba et al., arXiv 1607.06450) and
// GroupNorm (Wu and He, arXiv 1803.08494).
//
// An example's numbers fall into equal groups. Those of a group become
//   y = (x - mean) * scale * weight + bias,  scale = 1 / sqrt(variance + epsilon),
// and a gradient d by y becomes, with z = (x - mean) * scale and g = d * weight,
//   scale * (g - mean of g - z * mean of g * z).

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "layers.h"
#include "vectors.h"

namespace {

// Where a normalisation's parameters or their gradients are; null for none.
template <class T>
struct Affine {
  T *weight, *bias;
  Affine(const Layer& layer, T* all)
      : weight(layer.weight < 0 ? nullptr : all + layer.weight),
        bias(layer.bias < 0 ? nullptr : all + layer.bias) {}
};

inline void clear(const Layer& layer, const Affine<float>& gradient) {
  for (float* part : {gradient.weight, gradient.bias})
    if (part) std::fill(part, part + layer.scales, 0.0f);
}

inline void add(float* to, const Vec& value, int64_t count) {
  store(to, load(to, count) + value, count);
}

// Both kinds keep the groups' means, (group, example), and behind them their scales.
struct Statistics {
  float *means, *scales;
  Statistics(const Layer& layer, int64_t m, float* all, int64_t group, int64_t example)
      : means(all + group * m + example), scales(means + layer.groups * m) {}
};

// For examples (example, group, number): vectors lie along a group, up to LANES examples at a time.
void normalise(const Layer& layer, int64_t m, const float* parameters, const float* from, float* to,
               float* statistics) {
  const Affine<const float> affine(layer, parameters);
  const int64_t width = layer.outputs / layer.groups;
  for (int64_t group = 0; group < layer.groups; group++)
    for (int64_t first = 0; first < m; first += LANES) {
      const int64_t count = std::min<int64_t>(LANES, m - first);
      const Statistics own(layer, m, statistics, group, first);
      const int64_t start = first * layer.outputs + group * width;
      Vec parts[LANES] = {};
      for (int64_t i = 0; i < count; i++) {
        const float* x = from + start + i * layer.outputs;
        for (int64_t j = 0; j < width; j += LANES) parts[i] += load(x + j, width - j);
      }
      store(own.means, totals(parts) / float(width), count);
      for (int64_t i = 0; i < count; i++) {
        const float* x = from + start + i * layer.outputs;
        Vec squares = {};
        for (int64_t j = 0; j < width; j += LANES) {
          const Vec apart = first_lanes(load(x + j, width - j) - own.means[i], width - j);
          squares += apart * apart;
        }
        parts[i] = squares;
      }
      store(own.scales, 1.0f / root(totals(parts) / float(width) + float(layer.constant)), count);
      // Where LayerNorm leaves leading axes alone, all groups share their weights.
      const int64_t place = group * width % layer.scales;
      for (int64_t j = 0; j < width; j += LANES) {
        const int64_t lanes = width - j;
        const Vec weight = affine.weight ? load(affine.weight + place + j, lanes) : splat(1);
        const Vec bias = affine.bias ? load(affine.bias + place + j, lanes) : Vec{};
        for (int64_t i = 0; i < count; i++) {
          const int64_t at = start + i * layer.outputs + j;
          const Vec z = (load(from + at, lanes) - own.means[i]) * own.scales[i];
          store(to + at, z * weight + bias, lanes);
        }
      }
    }
}

// Writes the parameters' gradients, and that by the inputs in place of that by the outputs.
void normalise_back(const Layer& layer, int64_t m, const float* parameters, const float* from,
                    float* statistics, float* gradients, float* delta) {
  const Affine<const float> affine(layer, parameters);
  const Affine<float> gradient(layer, gradients);
  const int64_t width = layer.outputs / layer.groups;
  clear(layer, gradient);
  for (int64_t group = 0; group < layer.groups; group++)
    for (int64_t first = 0; first < m; first += LANES) {
      const int64_t count = std::min<int64_t>(LANES, m - first);
      const Statistics own(layer, m, statistics, group, first);
      const int64_t start = first * layer.outputs + group * width;
      const int64_t place = group * width % layer.scales;
      auto weight = [&](int64_t j) {
        return affine.weight ? load(affine.weight + place + j, width - j) : splat(1);
      };
      auto z = [&](int64_t at, int64_t i, int64_t lanes) {
        return (load(from + at, lanes) - own.means[i]) * own.scales[i];
      };
      Vec sums[LANES] = {}, products[LANES] = {};
      for (int64_t j = 0; j < width; j += LANES) {
        const Vec scaled = weight(j);
        Vec by_weight = {}, by_bias = {};
        for (int64_t i = 0; i < count; i++) {
          const int64_t at = start + i * layer.outputs + j, lanes = width - j;
          const Vec d = load(delta + at, lanes), product = d * z(at, i, lanes);
          by_weight += product;
          by_bias += d;
          sums[i] += d * scaled;
          products[i] += product * scaled;
        }
        if (gradient.weight) add(gradient.weight + place + j, by_weight, width - j);
        if (gradient.bias) add(gradient.bias + place + j, by_bias, width - j);
      }
      const Vec mean = totals(sums) / float(width), mean_product = totals(products) / float(width);
      for (int64_t j = 0; j < width; j += LANES) {
        const Vec scaled = weight(j);
        for (int64_t i = 0; i < count; i++) {
          const int64_t at = start + i * layer.outputs + j, lanes = width - j;
          const Vec rest = load(delta + at, lanes) * scaled - mean[i];
          store(delta + at, own.scales[i] * (rest - z(at, i, lanes) * mean_product[i]), lanes);
        }
      }
    }
}

// Calls f(VECTORS, first) for blocks of examples: enough vectors side by side to hide how long an
// addition takes, and to read whole stretches of memory.
template <class F>
inline void for_blocks(int64_t m, F f) {
  for (int64_t first = 0; first < m;) {
    const int64_t left = m - first;
    if (left > 2 * LANES)
      f(std::integral_constant<int, 4>{}, first), first += 4 * LANES;
    else if (left > LANES)
      f(std::integral_constant<int, 2>{}, first), first += 2 * LANES;
    else
      f(std::integral_constant<int, 1>{}, first), first += LANES;
  }
}

// For examples (number, example), as convolutions give them: vectors lie along the examples.
void normalise_images(const Layer& layer, int64_t m, const float* parameters, const float* from,
                      float* to, float* statistics) {
  const Affine<const float> affine(layer, parameters);
  const int64_t width = layer.outputs / layer.groups, pixels = layer.outputs / layer.scales;
  for (int64_t group = 0; group < layer.groups; group++)
    for_blocks(m, [&](auto n_vectors, int64_t first) {
      constexpr int VECTORS = n_vectors;
      const Statistics own(layer, m, statistics, group, first);
      const int64_t begin = group * width, end = begin + width;
      auto x = [&](int64_t k, int v) {
        return load(from + k * m + first + v * LANES, m - first - v * LANES);
      };
      Vec mean[VECTORS] = {}, scale[VECTORS] = {};
      for (int64_t k = begin; k < end; k++)
        unrolled<VECTORS>([&](auto v) { mean[v] += x(k, v); });
      unrolled<VECTORS>([&](auto v) { mean[v] /= float(width); });
      for (int64_t k = begin; k < end; k++)
        unrolled<VECTORS>([&](auto v) {
          const Vec apart = x(k, v) - mean[v];
          scale[v] += apart * apart;
        });
      unrolled<VECTORS>([&](auto v) {
        scale[v] = 1.0f / root(scale[v] / float(width) + float(layer.constant));
        store(own.means + v * LANES, mean[v], m - first - v * LANES);
        store(own.scales + v * LANES, scale[v], m - first - v * LANES);
      });
      for (int64_t channel = begin; channel < end; channel += pixels) {
        const float weight = affine.weight ? affine.weight[channel / pixels] : 1;
        const float bias = affine.bias ? affine.bias[channel / pixels] : 0;
        for (int64_t k = channel; k < channel + pixels; k++)
          unrolled<VECTORS>([&](auto v) {
            store(to + k * m + first + v * LANES, (x(k, v) - mean[v]) * scale[v] * weight + bias,
                  m - first - v * LANES);
          });
      }
    });
}

// As normalise_back.
void normalise_images_back(const Layer& layer, int64_t m, const float* parameters,
                           const float* from, float* statistics, float* gradients, float* delta) {
  const Affine<const float> affine(layer, parameters);
  const Affine<float> gradient(layer, gradients);
  const int64_t width = layer.outputs / layer.groups, pixels = layer.outputs / layer.scales;
  clear(layer, gradient);
  for (int64_t group = 0; group < layer.groups; group++)
    for_blocks(m, [&](auto n_vectors, int64_t first) {
      constexpr int VECTORS = n_vectors;
      const Statistics own(layer, m, statistics, group, first);
      const int64_t begin = group * width, end = begin + width;
      auto weight = [&](int64_t k) { return affine.weight ? affine.weight[k / pixels] : 1.0f; };
      Vec mean[VECTORS], scale[VECTORS], sum[VECTORS] = {}, products[VECTORS] = {};
      unrolled<VECTORS>([&](auto v) {
        mean[v] = load(own.means + v * LANES, m - first - v * LANES);
        scale[v] = load(own.scales + v * LANES, m - first - v * LANES);
      });
      auto d = [&](int64_t k, int v) {
        return load(delta + k * m + first + v * LANES, m - first - v * LANES);
      };
      auto z = [&](int64_t k, int v) {
        const Vec x = load(from + k * m + first + v * LANES, m - first - v * LANES);
        return (x - mean[v]) * scale[v];
      };
      for (int64_t channel = begin; channel < end; channel += pixels) {
        Vec by_bias[VECTORS] = {}, by_weight[VECTORS] = {};
        for (int64_t k = channel; k < channel + pixels; k++)
          unrolled<VECTORS>([&](auto v) {
            by_bias[v] += d(k, v);
            by_weight[v] += d(k, v) * z(k, v);
          });
        const float scaled = weight(channel);
        unrolled<VECTORS>([&](auto v) {
          sum[v] += scaled * by_bias[v];
          products[v] += scaled * by_weight[v];
          if constexpr (v > 0) by_bias[0] += by_bias[v], by_weight[0] += by_weight[v];
        });
        if (gradient.weight) gradient.weight[channel / pixels] += total(by_weight[0]);
        if (gradient.bias) gradient.bias[channel / pixels] += total(by_bias[0]);
      }
      unrolled<VECTORS>([&](auto v) { sum[v] /= float(width), products[v] /= float(width); });
      for (int64_t channel = begin; channel < end; channel += pixels) {
        const float scaled = weight(channel);
        for (int64_t k = channel; k < channel + pixels; k++)
          unrolled<VECTORS>([&](auto v) {
            store(delta + k * m + first + v * LANES,
                  scale[v] * (scaled * d(k, v) - sum[v] - z(k, v) * products[v]),
                  m - first - v * LANES);
          });
      }
    });
}

}  // namespace
