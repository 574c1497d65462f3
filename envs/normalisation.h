// Layers that normalise each example, forward and back: LayerNorm (Ba et al., arXiv 1607.06450) and
// GroupNorm (Wu and He, arXiv 1803.08494).
//
// An example's numbers fall into equal groups. Those of a group become
//   y = (x - mean) * scale * weight + bias,  scale = 1 / sqrt(variance + epsilon),
// and a gradient d by y becomes, with z = (x - mean) * scale and g = d * weight,
//   scale * (g - mean of g - z * mean of g * z).

#pragma once

#include <algorithm>
#include <cmath>

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

// For examples (example, group, number): vectors lie along a group.
//
// `statistics` gets mean and scale of each group, (example, group, 2).
void normalise(const Layer& layer, int64_t m, const float* parameters, const float* from, float* to,
               float* statistics) {
  const Affine<const float> affine(layer, parameters);
  const int64_t width = layer.outputs / layer.groups;
  for (int64_t row = 0; row < m * layer.groups; row++) {
    // Where LayerNorm leaves leading axes alone, all groups share their weights.
    const int64_t own = row % layer.groups * width % layer.scales;
    Vec sum = {}, squares = {};
    for (int64_t j = 0; j < width; j += LANES) sum += load(from + j, width - j);
    const float mean = total(sum) / width;
    for (int64_t j = 0; j < width; j += LANES) {
      const Vec apart = first_lanes(load(from + j, width - j) - mean, width - j);
      squares += apart * apart;
    }
    const float scale = 1 / std::sqrt(float(total(squares) / width + layer.constant));
    for (int64_t j = 0; j < width; j += LANES) {
      Vec y = (load(from + j, width - j) - mean) * scale;
      if (affine.weight) y *= load(affine.weight + own + j, width - j);
      if (affine.bias) y += load(affine.bias + own + j, width - j);
      store(to + j, y, width - j);
    }
    statistics[0] = mean, statistics[1] = scale;
    from += width, to += width, statistics += 2;
  }
}

// Writes the parameters' gradients, and that by the inputs in place of that by the outputs.
void normalise_back(const Layer& layer, int64_t m, const float* parameters, const float* from,
                    const float* statistics, float* gradients, float* delta) {
  const Affine<const float> affine(layer, parameters);
  const Affine<float> gradient(layer, gradients);
  const int64_t width = layer.outputs / layer.groups;
  clear(layer, gradient);
  for (int64_t row = 0; row < m * layer.groups; row++) {
    const int64_t own = row % layer.groups * width % layer.scales;
    const float mean = statistics[0], scale = statistics[1];
    auto z = [&](int64_t j) { return (load(from + j, width - j) - mean) * scale; };
    auto by_z = [&](int64_t j) {
      const Vec d = load(delta + j, width - j);
      return affine.weight ? d * load(affine.weight + own + j, width - j) : d;
    };
    Vec sum = {}, products = {};
    for (int64_t j = 0; j < width; j += LANES) {
      const int64_t count = width - j;
      const Vec d = load(delta + j, count), normal = z(j), g = by_z(j);
      sum += g;
      products += g * normal;
      if (gradient.weight) add(gradient.weight + own + j, d * normal, count);
      if (gradient.bias) add(gradient.bias + own + j, d, count);
    }
    const float mean_g = total(sum) / width, mean_product = total(products) / width;
    for (int64_t j = 0; j < width; j += LANES)
      store(delta + j, scale * (by_z(j) - mean_g - z(j) * mean_product), width - j);
    from += width, delta += width, statistics += 2;
  }
}

// For examples (number, example), as convolutions give them: vectors lie along the examples.
//
// `statistics` gets the means, (group, example), and behind them the scales.
void normalise_images(const Layer& layer, int64_t m, const float* parameters, const float* from,
                      float* to, float* statistics) {
  const Affine<const float> affine(layer, parameters);
  const int64_t width = layer.outputs / layer.groups, pixels = layer.outputs / layer.scales;
  for (int64_t group = 0; group < layer.groups; group++)
    for (int64_t i = 0; i < m; i += LANES) {
      const int64_t count = m - i;
      const float* x = from + group * width * m + i;
      Vec sum = {}, squares = {};
      for (int64_t k = 0; k < width; k++) sum += load(x + k * m, count);
      const Vec mean = sum / float(width);
      for (int64_t k = 0; k < width; k++) {
        const Vec apart = load(x + k * m, count) - mean;
        squares += apart * apart;
      }
      const Vec scale = 1.0f / root(squares / float(width) + float(layer.constant));
      store(statistics + group * m + i, mean, count);
      store(statistics + (layer.groups + group) * m + i, scale, count);
      for (int64_t k = group * width; k < (group + 1) * width; k += pixels) {
        const float weight = affine.weight ? affine.weight[k / pixels] : 1;
        const float bias = affine.bias ? affine.bias[k / pixels] : 0;
        for (int64_t p = k * m + i; p < (k + pixels) * m; p += m)
          store(to + p, (load(from + p, count) - mean) * scale * weight + bias, count);
      }
    }
}

// As normalise_back.
void normalise_images_back(const Layer& layer, int64_t m, const float* parameters,
                           const float* from, const float* statistics, float* gradients,
                           float* delta) {
  const Affine<const float> affine(layer, parameters);
  const Affine<float> gradient(layer, gradients);
  const int64_t width = layer.outputs / layer.groups, pixels = layer.outputs / layer.scales;
  clear(layer, gradient);
  for (int64_t group = 0; group < layer.groups; group++)
    for (int64_t i = 0; i < m; i += LANES) {
      const int64_t count = m - i, begin = group * width, end = begin + width;
      const Vec mean = load(statistics + group * m + i, count);
      const Vec scale = load(statistics + (layer.groups + group) * m + i, count);
      Vec sum = {}, products = {};
      for (int64_t k = begin; k < end; k += pixels) {
        Vec d_sum = {}, d_products = {};
        for (int64_t p = k * m + i; p < (k + pixels) * m; p += m) {
          const Vec d = load(delta + p, count);
          d_sum += d;
          d_products += d * (load(from + p, count) - mean) * scale;
        }
        const float weight = affine.weight ? affine.weight[k / pixels] : 1;
        sum += weight * d_sum;
        products += weight * d_products;
        if (gradient.weight) gradient.weight[k / pixels] += total(d_products);
        if (gradient.bias) gradient.bias[k / pixels] += total(d_sum);
      }
      const Vec mean_g = sum / float(width), mean_product = products / float(width);
      for (int64_t k = begin; k < end; k += pixels) {
        const float weight = affine.weight ? affine.weight[k / pixels] : 1;
        for (int64_t p = k * m + i; p < (k + pixels) * m; p += m) {
          const Vec z = (load(from + p, count) - mean) * scale;
          store(delta + p, scale * (weight * load(delta + p, count) - mean_g - z * mean_product),
                count);
        }
      }
    }
}

}  // namespace
