// Whole trainings of chains of layers: run by run and step by step the micro-batch's examples are
// gathered, the layers gone through forward and back, and the run updated, without leaving this
// code. All that a run needs then stays in the caches near the core. Compiled by native_code.py.

#include <cmath>
#include <vector>

#include "activations.h"
#include "dropout.h"
#include "images.h"
#include "layers.h"
#include "memory.h"
#include "normalisation.h"
#include "products.h"
#include "update.h"

namespace {

enum Objective : int64_t { CROSS_ENTROPY, SQUARED_ERROR };

// The order and the types are those of chain_trainer.py, and so for what follows.
struct Program {
  int64_t n_layers;
  const Layer* layers;
  int64_t objective, n_params;
  // Of convolution.cpp.
  void (*convolve)(float*, uint8_t*, const float*, const float*, const float*, const Shape*);
  void (*convolve_back)(float*, float*, float*, const float*, const uint8_t*, const float*,
                        const float*, const Shape*);
  void (*pool)(float*, uint8_t*, const float*, const Shape*);
  void (*pool_back)(float*, const float*, const uint8_t*, const Shape*);
};

struct Data {
  const void* inputs;   // (n_examples, inputs): float, or int64_t if an embedding comes first
  const void* targets;  // (n_examples,) int64_t classes, or (n_examples, outputs) float
};

struct Training {
  int64_t n_rows, n_steps, n_examples, width, n_moments, n_scalars, n_sums;
  const int32_t* indices;  // (n_rows, n_steps, n_examples)
  const int64_t* keys;     // (n_rows, n_steps)
  float* parameters;       // (n_rows, width), and so what follows
  float* const* moments;
  float* accumulated;      // or null
  const float* scalars;    // (n_rows, n_steps, n_scalars)
  double* sums;            // (n_rows, n_steps, 1 + n_sums): the loss, then the update's
  void (*update)(const Update*);
  int64_t n_parts;
  const Part* parts;  // of a run, for the update
};

// One micro-batch on its way through the layers of one run.
class Pass {
 public:
  Pass(const Program& program, int64_t n_examples) : program(program), m(n_examples) {
    int64_t widest = 0, all = 0, largest = 0;
    for (int64_t l = 0; l < program.n_layers; l++) {
      const Layer& layer = program.layers[l];
      widest = std::max({widest, layer.inputs, layer.outputs});
      places.push_back(all);
      all += m * layer.outputs;
      shapes.push_back(layer.shape ? *layer.shape : Shape{});
      shapes.back().n_examples = m;
      if (layer.shape) maxima.resize(all);
      statistics.emplace_back(2 * m * layer.groups);
      if (layer.kind == LINEAR) largest = std::max(largest, scratch_of(layer));
    }
    transposed.resize(largest);
    outputs.resize(all);
    const Layer& first = program.layers[0];
    inputs.resize(m * first.inputs);
    if (first.kind == EMBEDDING) tokens.resize(m * first.inputs);
    if (first.kind == CONVOLUTION) inputs.resize(packed_size(shapes[0], whole_vectors(m)));
    no_bias.resize(widest);
    classes.resize(m);
    values.resize(m * last().outputs);
    for (auto& half : deltas) half.resize(m * widest);
  }

  // Takes the examples of these indices.
  void gather(const Data& data, const int32_t* indices) {
    const int64_t size = program.layers[0].inputs, target = last().outputs;
    const int64_t kind = program.layers[0].kind;
    if (kind == CONVOLUTION)
      for (int64_t first = 0; first < m; first += block_lanes(shapes[0], first))
        pack_block(inputs.data() + packed_size(shapes[0], first), (const float*)data.inputs,
                   indices, shapes[0], first, block_lanes(shapes[0], first));
    for (int64_t i = 0; i < m; i++) {
      if (kind == EMBEDDING)
        copy((const int64_t*)data.inputs + indices[i] * size, size, tokens.data() + i * size);
      else if (kind != CONVOLUTION)
        copy((const float*)data.inputs + indices[i] * size, size, inputs.data() + i * size);
      if (program.objective == CROSS_ENTROPY)
        classes[i] = ((const int64_t*)data.targets)[indices[i]];
      else
        copy((const float*)data.targets + indices[i] * target, target, values.data() + i * target);
    }
  }

  // `key` is what this step's random numbers are made of; null in evaluation.
  void forward(const float* parameters, const int64_t* key) {
    const float* from = inputs.data();
    float* to = outputs.data();
    for (int64_t l = 0; l < program.n_layers; l++) {
      const Layer& layer = program.layers[l];
      const float* weight = parameters + layer.weight;
      const int64_t n = m * layer.outputs;
      switch (layer.kind) {
        case LINEAR:
          linear(layer, weight, layer.bias < 0 ? nullptr : parameters + layer.bias, from, to);
          break;
        case EMBEDDING: {
          const int64_t width = layer.outputs / layer.inputs;
          for (int64_t i = 0; i < m * layer.inputs; i++)
            copy(weight + tokens[i] * width, width, to + i * width);
          break;
        }
        case CONVOLUTION:
          program.convolve(to, index(to), from, weight,
                           layer.bias < 0 ? nullptr : parameters + layer.bias, &shapes[l]);
          break;
        case POOLING: program.pool(to, index(to), from, &shapes[l]); break;
        case TURN: transpose(from, layer.inputs, m, to, layer.inputs); break;
        case NORMALISATION:
          normalise(layer, m, parameters, from, to, statistics[l].data());
          break;
        case IMAGE_NORMALISATION:
          normalise_images(layer, m, parameters, from, to, statistics[l].data());
          break;
        case ADDITION: {
          const float* other = outputs_of(layer.source);
          map(to, n, [&](auto at) { return at(from) + at(other); });
          break;
        }
        case DROPOUT:
          if (key)
            drop(from, n, uint64_t(*key) + layer.salt, layer.constant, to);
          else
            copy(from, n, to);
          break;
        default: activate(layer, from, n, to);
      }
      from = to;
      to += n;
    }
  }

  // The mean loss. `gradient` gets its gradient by the outputs, `metric` the number of examples
  // that are classified correctly, or the sum of their absolute errors; both may be null.
  double loss(float* gradient, double* metric) const {
    return program.objective == CROSS_ENTROPY ? cross_entropy(gradient, metric)
                                              : squared_error(gradient, metric);
  }

  // Gives the mean loss and writes its gradient by all parameters.
  double backward(const float* parameters, int64_t key, float* gradient) {
    const double mean = loss(deltas[0].data(), nullptr);
    float* result = outputs.data() + outputs.size();
    for (int64_t l = program.n_layers - 1; l >= 0; l--) {
      const Layer& layer = program.layers[l];
      const int64_t n = m * layer.outputs;
      result -= n;
      const float* from = l ? result - m * layer.inputs : inputs.data();
      float *delta = deltas[0].data(), *next = deltas[1].data();
      for (int64_t later = l + 1; later < program.n_layers; later++)
        if (program.layers[later].kind == ADDITION && program.layers[later].source == l) {
          const float* other = outputs_of(later);
          map(delta, n, [&](auto at) { return at(delta) + at(other); });
        }
      switch (layer.kind) {
        case LINEAR:
          if (layer.relu) through_relu(delta, result, n, delta);
          multiply({layer.outputs, layer.inputs, m, delta, 1, layer.outputs, from, layer.inputs,
                    gradient + layer.weight, layer.inputs, nullptr, false, false});
          if (layer.bias >= 0) sum_rows(delta, m, layer.outputs, gradient + layer.bias);
          if (l) {
            multiply({m, layer.inputs, layer.outputs, delta, layer.outputs, 1,
                      parameters + layer.weight, layer.inputs, next, layer.inputs, nullptr, false,
                      false});
            std::swap(deltas[0], deltas[1]);
          }
          break;
        case EMBEDDING: {
          const int64_t width = layer.outputs / layer.inputs;
          float* table = gradient + layer.weight;
          std::fill(table, table + layer.vocabulary * width, 0.0f);
          for (int64_t i = 0; i < m * layer.inputs; i++)
            for (int64_t j = 0; j < width; j++)
              table[tokens[i] * width + j] += delta[i * width + j];
          break;
        }
        case CONVOLUTION:
          program.convolve_back(l ? next : nullptr, gradient + layer.weight,
                                layer.bias < 0 ? no_bias.data() : gradient + layer.bias, delta,
                                index(result), from, parameters + layer.weight, &shapes[l]);
          std::swap(deltas[0], deltas[1]);
          break;
        case POOLING:
          program.pool_back(next, delta, index(result), &shapes[l]);
          std::swap(deltas[0], deltas[1]);
          break;
        case TURN:
          transpose(delta, m, layer.inputs, next, m);
          std::swap(deltas[0], deltas[1]);
          break;
        case NORMALISATION:
          normalise_back(layer, m, parameters, from, statistics[l].data(), gradient, delta);
          break;
        case IMAGE_NORMALISATION:
          normalise_images_back(layer, m, parameters, from, statistics[l].data(), gradient, delta);
          break;
        case ADDITION:
          // Nobody needs its outputs any more: there the gradient waits for the other layer's turn.
          copy(delta, n, result);
          break;
        case DROPOUT: drop(delta, n, uint64_t(key) + layer.salt, layer.constant, delta); break;
        default: activate_back(layer, from, result, n, delta);
      }
    }
    return mean;
  }

 private:
  const Program& program;
  const int64_t m;
  Buffer inputs, outputs, transposed, values, no_bias, deltas[2];
  std::vector<int64_t> tokens, classes;
  std::vector<uint8_t> maxima;  // where those of pooling windows were
  std::vector<std::vector<float>> statistics;  // of normalisations
  std::vector<int64_t> places;  // where each layer's outputs begin
  std::vector<Shape> shapes;

  uint8_t* index(const float* output) { return maxima.data() + (output - outputs.data()); }

  float* outputs_of(int64_t l) { return l < 0 ? inputs.data() : outputs.data() + places[l]; }
  const Layer& last() const { return program.layers[program.n_layers - 1]; }
  static int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
  template <class T>
  static void copy(const T* from, int64_t n, T* to) {
    std::memcpy(to, from, n * sizeof(T));
  }

  // Vectors want the numbers of a row of the second factor side by side, which takes turning over
  // either the weight or the examples and the result: whichever is less.
  void linear(const Layer& layer, const float* weight, const float* bias, const float* from,
              float* to) {
    const int64_t in = layer.inputs, out = layer.outputs;
    float* scratch = transposed.data();
    if (!turns_examples(layer)) {
      transpose(weight, out, in, scratch, whole_vectors(out));
      multiply({m, out, in, from, in, 1, scratch, whole_vectors(out), to, out, bias,
                bool(layer.relu), false});
      return;
    }
    float* turned = scratch + in * whole_vectors(m);
    transpose(from, m, in, scratch, whole_vectors(m));
    multiply({out, m, in, weight, in, 1, scratch, whole_vectors(m), turned, m, bias,
              bool(layer.relu), true});
    transpose(turned, out, m, to, out);
  }
  bool turns_examples(const Layer& layer) const {
    return m * (layer.inputs + layer.outputs) < layer.inputs * layer.outputs;
  }
  int64_t scratch_of(const Layer& layer) const {
    return turns_examples(layer) ? (layer.inputs + layer.outputs) * whole_vectors(m)
                                 : layer.inputs * whole_vectors(layer.outputs);
  }

  double cross_entropy(float* gradient, double* metric) const {
    const int64_t n = last().outputs;
    const float* logits = outputs.data() + outputs.size() - m * n;
    double sum = 0;
    for (int64_t i = 0; i < m; i++, logits += n) {
      const bool exists = classes[i] >= 0 && classes[i] < n;
      int64_t top = 0;
      for (int64_t j = 1; j < n; j++)
        // A NaN is the highest, as with torch.
        if (!(logits[j] <= logits[top]) && logits[top] == logits[top]) top = j;
      const float highest = logits[top];
      Vec parts = {};
      for (int64_t j = 0; j < n; j += LANES) {
        const Vec e = exponential(load(logits + j, n - j) - highest);
        parts += first_lanes(e, n - j);
        if (gradient) store(gradient + i * n + j, e, n - j);
      }
      const float all = total(parts);
      sum += exists ? std::log(all) - (logits[classes[i]] - highest) : NAN;
      if (metric) *metric += top == classes[i];
      if (!gradient) continue;
      const float scale = exists ? 1 / (all * m) : 0;
      map(gradient + i * n, n, [&](auto at) { return scale * at(gradient + i * n); });
      if (exists) gradient[i * n + classes[i]] -= 1.0f / m;
    }
    return sum / m;
  }

  double squared_error(float* gradient, double* metric) const {
    const int64_t n = m * last().outputs;
    const float* given = outputs.data() + outputs.size() - n;
    Vec squares = {}, sizes = {};
    for (int64_t i = 0; i < n; i += LANES) {
      const Vec error = load(given + i, n - i) - load(values.data() + i, n - i);
      squares += error * error;
      sizes += select(error < 0, -error, error);
      if (gradient) store(gradient + i, 2.0f / n * error, n - i);
    }
    if (metric) *metric += total(sizes) / last().outputs;
    return total(squares) / n;
  }
};

}  // namespace

// Trains every run on its next micro-batches.
extern "C" void trainpilot_train(const Program* program, const Data* data, const Training* given) {
  const Training& t = *given;
  DenormalsAreZeros mode;
  Pass pass(*program, t.n_examples);
  std::vector<float> gradient(program->n_params);
  float* gradients[1] = {gradient.data()};
  const int64_t stride = 0;
  std::vector<float*> moments(t.n_moments);
  for (int64_t row = 0; row < t.n_rows; row++) {
    for (int64_t k = 0; k < t.n_moments; k++) moments[k] = t.moments[k] + row * t.width;
    Update update{1, 1, t.width, &program->n_params, gradients, &stride,
                  t.parameters + row * t.width, moments.data(),
                  t.accumulated ? t.accumulated + row * t.width : nullptr, nullptr, nullptr,
                  t.n_parts, t.parts};
    for (int64_t step = 0; step < t.n_steps; step++) {
      const int64_t place = row * t.n_steps + step;
      double* sums = t.sums + place * (1 + t.n_sums);
      pass.gather(*data, t.indices + place * t.n_examples);
      pass.forward(update.parameters, t.keys + place);
      sums[0] = pass.backward(update.parameters, t.keys[place], gradient.data());
      update.scalars = t.scalars + place * t.n_scalars;
      update.sums = sums + 1;
      t.update(&update);
    }
  }
}

// Mean loss and metric of every run on all examples, (n_rows, 2).
extern "C" void trainpilot_evaluate(const Program* program, const Data* data, int64_t n_examples,
                                    const float* parameters, int64_t n_rows, int64_t width,
                                    double* results) {
  constexpr int64_t AT_ONCE = 128;
  DenormalsAreZeros mode;
  std::vector<int32_t> indices(n_examples);
  for (int64_t i = 0; i < n_examples; i++) indices[i] = i;
  std::fill(results, results + 2 * n_rows, 0.0);
  for (int64_t start = 0; start < n_examples; start += AT_ONCE) {
    const int64_t n = std::min(AT_ONCE, n_examples - start);
    Pass pass(*program, n);
    pass.gather(*data, indices.data() + start);
    for (int64_t row = 0; row < n_rows; row++) {
      pass.forward(parameters + row * width, nullptr);
      results[2 * row] += pass.loss(nullptr, results + 2 * row + 1) * n / n_examples;
    }
  }
  for (int64_t row = 0; row < n_rows; row++) results[2 * row + 1] /= n_examples;
}
