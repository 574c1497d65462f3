// Chains of linear layers, each with ReLU behind it or not, of many runs with weights of their own.
//
// One run after the other goes through the whole chain, so that its activations stay in the nearest
// caches, and the products are blocked for sizes of some dozens to hundreds, where the libraries'
// own spend much of their time on getting started. Compiled by native_code.py.

#include <vector>

#include "products.h"

namespace {

// The order and the types are those of `_Chain` in linear.py.
struct Chain {
  int64_t n_runs, n_layers, n_examples;
  int64_t input_stride;      // from run to run; 0 where all have the same inputs
  const int64_t* widths;     // inputs, then the outputs of each layer
  const int64_t* relu;       // of each layer
  float* const* weights;     // (n_runs, outputs, inputs)
  const int64_t* weight_strides;
  float* const* biases;      // (n_runs, outputs), null for none
  const int64_t* bias_strides;

  int64_t hidden_size() const {
    int64_t size = 0;
    for (int64_t l = 1; l < n_layers; l++) size += n_examples * widths[l];
    return size;
  }
  int64_t parameters_size() const {
    int64_t size = 0;
    for (int64_t l = 0; l < n_layers; l++) {
      size += widths[l] * widths[l + 1] + (biases[l] ? widths[l + 1] : 0);
    }
    return size;
  }
  int64_t widest() const { return *std::max_element(widths, widths + n_layers + 1); }
};

}  // namespace

// `hidden` gets the outputs of all layers but the last, (n_runs, hidden_size).
extern "C" void trainpilot_linear_forward(float* output, float* hidden, const float* inputs,
                                          const Chain* given) {
  const Chain& c = *given;
  const int64_t outputs = c.widths[c.n_layers];
  const int64_t padding = c.widest() + LANES;
  std::vector<float> scratch(c.widest() * padding);
  for (int64_t run = 0; run < c.n_runs; run++) {
    const float* from = inputs + run * c.input_stride;
    float* next = hidden + run * c.hidden_size();
    for (int64_t l = 0; l < c.n_layers; l++) {
      const int64_t in = c.widths[l], out = c.widths[l + 1];
      const int64_t padded = (out + LANES - 1) / LANES * LANES;
      transpose(c.weights[l] + run * c.weight_strides[l], out, in, scratch.data(), padded);
      float* to = l + 1 < c.n_layers ? next : output + run * c.n_examples * outputs;
      const float* bias = c.biases[l] ? c.biases[l] + run * c.bias_strides[l] : nullptr;
      multiply({c.n_examples, out, in, from, in, 1, scratch.data(), padded, to, out, bias,
                bool(c.relu[l])});
      from = to;
      next += c.n_examples * out;
    }
  }
}

// `by_parameters` gets the gradients of each layer's weight and bias, (n_runs, parameters_size);
// `by_inputs` may be null.
extern "C" void trainpilot_linear_backward(float* by_inputs, float* by_parameters,
                                           const float* gradient, const float* inputs,
                                           const float* output, const float* hidden,
                                           const Chain* given) {
  const Chain& c = *given;
  const int64_t m = c.n_examples, n_outputs = c.widths[c.n_layers], n_inputs = c.widths[0];
  std::vector<float> scratch[2];
  for (auto& half : scratch) half.resize(m * c.widest());
  for (int64_t run = 0; run < c.n_runs; run++) {
    const float* coming = gradient + run * m * n_outputs;
    const float* result = output + run * m * n_outputs;
    const float* activations = hidden + (run + 1) * c.hidden_size();
    float* end = by_parameters + (run + 1) * c.parameters_size();
    for (int64_t l = c.n_layers - 1; l >= 0; l--) {
      const int64_t in = c.widths[l], out = c.widths[l + 1];
      if (c.relu[l]) {
        through_relu(coming, result, m * out, scratch[0].data());
        coming = scratch[0].data();
      }
      if (c.biases[l]) {
        end -= out;
        sum_rows(coming, m, out, end);
      }
      activations -= l ? m * in : 0;
      const float* from = l ? activations : inputs + run * c.input_stride;
      end -= in * out;
      multiply({out, in, m, coming, 1, out, from, in, end, in, nullptr, false});
      if (l || by_inputs) {
        float* to = l ? scratch[1].data() : by_inputs + run * m * n_inputs;
        const float* weight = c.weights[l] + run * c.weight_strides[l];
        multiply({m, in, out, coming, out, 1, weight, in, to, in, nullptr, false});
        std::swap(scratch[0], scratch[1]);
        coming = to;
        result = from;
      }
    }
  }
}
