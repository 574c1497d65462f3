// What a chain's layers are.

#pragma once

#include "images.h"

namespace {

// TURN: from (number, example), as convolutions give it, to (example, number).
enum Kind : int64_t {
  LINEAR, RELU, TANH, GELU, SILU, SIGMOID, LEAKY_RELU, ELU, EMBEDDING, CONVOLUTION, POOLING, TURN,
  NORMALISATION, IMAGE_NORMALISATION, ADDITION, DROPOUT
};

// The order and the types are those of `NativeLayer` in chain_program.py.
struct Layer {
  int64_t kind;
  int64_t inputs, outputs;  // numbers of an example
  int64_t weight, bias;     // where they begin among a run's parameters; -1 for none
  int64_t relu;             // of a linear layer: whether ReLU follows
  int64_t vocabulary;       // of an embedding
  int64_t groups, scales;   // of a normalisation: groups of an example, numbers of the weight
  int64_t source;           // of an addition: the layer whose outputs are added; -1 for the inputs
  int64_t salt;             // of a dropout: what is added to a run's key
  double constant;          // slope of a leaky ReLU, alpha of an ELU, epsilon of a normalisation,
                            // probability of a dropout
  const Shape* shape;       // of a convolution or pooling, but for the number of examples
};

}  // namespace
