// Direct convolutions of many runs, each with its own weights, with ReLU and max pooling fused in.
//
// The examples of a batch are the vector lanes: every array is (..., channel, row, column,
// example). So no width is too odd for the vectors, and a pooling window or a stride costs nothing. A block
// of up to two vectors of examples is worked on at a time; other batch sizes are packed into such
// blocks, the last one filled up with zeros, and so are images that need a border of zeros.
//
// Plain C++ with the vector extension of GCC and Clang; compiled by native_code.py.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "images.h"
#include "memory.h"
#include "pooling.h"
#include "tiles.h"
#include "vectors.h"

namespace {

// A row of `n` pixels, in tiles as far as they go. `shared(x)` are the taps of the tile that
// begins at pixel x, whose pixels lie `step` floats apart in the source; `alone(x)` those of a
// pixel. Where the last tile does not fit it is moved back over the one before.
template <class Shared, class Alone>
void plain_row(float* out, int64_t out_channel, int64_t n, const float* start, Window window,
               int64_t step, const Weights& weights, bool tiled, Shared shared, Alone alone) {
  int64_t lanes = window.source.lanes, n_pixels = tile_pixels(lanes);
  int64_t offsets[PLACES], out_offsets[PLACES];
  for (int64_t i = 0; i < PLACES; i++) {
    int64_t pixel = i * LANES / lanes, lane = i * LANES % lanes;
    offsets[i] = pixel * step + lane;
    out_offsets[i] = pixel * lanes + lane;
  }
  tiled = tiled && n >= n_pixels;
  for (int64_t o = 0; o < weights.n_channels(); o += weights.block()) {
    window.weights = weights.of(o);
    float* to = out + o * out_channel;
    const float* own = start ? start + o : nullptr;
    for (int64_t x = 0; tiled && x < n; x += n_pixels) {
      int64_t from = std::min(x, n - n_pixels);
      window.columns = shared(from);
      plain_kernel<PLACES>(weights.size(o), CHANNELS)(to + from * lanes, out_channel, out_offsets,
                                                      own, window, offsets);
    }
    for (int64_t x = 0; !tiled && x < n; x++) {
      window.columns = alone(x);
      for (int64_t lane = 0; lane < lanes; lane += LANES)
        plain_kernel<1>(weights.size(o), CHANNELS)(to + x * lanes, out_channel, &lane, own, window,
                                                   &lane);
    }
  }
}

// A row of 2 x 2 windows.
void pooled_row(float* out, uint8_t* index, const float* start, Window window,
                const Weights& weights, const Shape& s, int64_t py, int64_t first, Ahead& ahead) {
  const Block& source = window.source;
  int64_t down = s.stride_height * source.row, right = s.stride_width * source.lanes;
  int64_t channel = s.pooled_height * s.pooled_width * s.n_examples;
  window.rows = forward_taps(2 * py, s.kernel_height, s.stride_height);
  // So many channels at a time that their weights stay in the nearest cache with the window.
  int64_t block = weights.block(), most = std::max<int64_t>(1, 4096 / weights.size_of_block());
  for (int64_t group = 0; group < s.out_channels; group += most * block)
    for (int64_t px = 0; px < s.pooled_width; px++) {
      window.columns = forward_taps(2 * px, s.kernel_width, s.stride_width);
      for (int64_t lane = 0; lane < std::min(source.lanes, s.n_examples - first); lane += LANES) {
        ahead.fetch();
        int64_t offsets[] = {lane, lane + right, lane + down, lane + down + right};
        int64_t to = (py * s.pooled_width + px) * s.n_examples + first + lane;
        int64_t end = std::min(group + most * block, s.out_channels);
        for (int64_t o = group; o < end; o += block) {
          window.weights = weights.of(o);
          pooled_kernel(weights.size(o), CHANNELS)(
              out + o * channel + to, index + o * channel + to, channel,
              s.n_examples - first - lane, s.relu, start ? start + o : nullptr, window, offsets);
        }
      }
    }
}

// The output of the examples from `first` on, which `source` holds.
void forward_block(float* out, uint8_t* index, Block source, const Weights& weights,
                   const float* bias, const Shape& s, int64_t first, Ahead& ahead) {
  static thread_local Buffer band;
  int64_t height = s.out_height(), width = s.out_width(), lanes = source.lanes;
  int64_t count = std::min(lanes, s.n_examples - first);
  Window window = {source, s.in_channels, nullptr, s.kernel_height, s.kernel_width, {}, {}};
  if (s.pairs()) {
    for (int64_t py = 0; py < s.pooled_height; py++)
      pooled_row(out, index, bias, window, weights, s, py, first, ahead);
    return;
  }
  bool direct = s.plain() && s.n_examples == lanes;
  int64_t channel = (direct ? height : s.pool_height) * width * lanes;
  if (!direct) band.resize(s.out_channels * channel);
  auto taps = [&](int64_t x) { return forward_taps(x, s.kernel_width, s.stride_width); };
  for (int64_t y = 0; y < height; y++) {
    int64_t band_row = y % s.pool_height;
    float* to = direct ? out + y * width * lanes : band.data() + band_row * width * lanes;
    window.rows = forward_taps(y, s.kernel_height, s.stride_height);
    plain_row(to, channel, width, bias, window, s.stride_width * lanes, weights, true, taps, taps);
    if (direct || band_row + 1 < s.pool_height) continue;
    if (!s.plain()) {
      pool_row<0>(out, index, {band.data(), channel, width * lanes, lanes}, s, y / s.pool_height,
                  first, count);
      continue;
    }
    for (int64_t o = 0; o < s.out_channels; o++)
      for (int64_t x = 0; x < width; x++)
        std::memcpy(out + ((o * height + y) * width + x) * s.n_examples + first,
                    band.data() + (o * width + x) * lanes, count * sizeof(float));
  }
}

// Output channels of a register block of weights' gradients.
int64_t correlated_channels(const Shape& s) {
  return even_block(s.out_channels, most_correlated(even_block(s.kernel_width, MOST_TAPS)));
}

// Pooled rows whose gradients, of one such block, stay in the nearest cache.
int64_t strip_rows(const Shape& s, int64_t lanes) {
  int64_t row = correlated_channels(s) * s.pool_height * s.out_width() * lanes;
  return std::max<int64_t>(1, 6144 / row);
}

// Calls of its kernel that a run's gradient of weights takes, at least.
int64_t n_correlations(const Shape& s) {
  int64_t strips = (s.pooled_height - 1) / strip_rows(s, 2 * LANES) + 1;
  return strips * s.in_channels * s.kernel_height * (s.out_channels / correlated_channels(s));
}

// Rows of the convolution's output, onto the partial sums of its weights' gradients.
// `gradient` and `input` begin where the first row and its first tap are.
void weight_gradient(float* partial, Block gradient, Block input, int64_t n_rows, const Shape& s,
                     Ahead& ahead) {
  int64_t width = s.out_width(), lanes = input.lanes, taps = s.n_taps();
  int64_t n_taps = even_block(s.kernel_width, MOST_TAPS);
  int64_t block = correlated_channels(s);
  bool dense = s.stride_width == 1;
  Segments segments = {};
  segments.gradient_channel = gradient.channel;
  segments.gradient_row = gradient.row;
  segments.input_row = s.stride_height * input.row;
  segments.input_segment = s.stride_width * lanes;
  segments.lanes = lanes;
  segments.n_rows = n_rows;
  segments.n_segments = dense ? 1 : width;
  segments.n_vectors = (dense ? width : 1) * lanes / LANES;
  for (int64_t o = 0; o < s.out_channels; o += block)
    for (int64_t c = 0; c < s.in_channels; c++)
      for (int64_t a = 0; a < s.kernel_height; a++)
        for (int64_t b = 0; b < s.kernel_width; b += n_taps) {
          ahead.fetch();
          int64_t weight = (o * s.in_channels + c) * taps + a * s.kernel_width + b;
          segments.gradient = gradient.data + o * gradient.channel;
          segments.input = input.data + c * input.channel + a * input.row + b * lanes;
          correlate_kernel(std::min(block, s.out_channels - o),
                           std::min(n_taps, s.kernel_width - b))(
              partial + weight * LANES, s.in_channels * taps * LANES, segments);
        }
}

// Copies or unpools pooled row `py` of the output's gradient for the examples from `first` on into
// a block, and adds each channel's sum to the bias's gradient.
void unpool(float* to, const Block& block, float* bias_partial, const float* gradient,
            const uint8_t* index, const Shape& s, int64_t py, int64_t first) {
  int64_t count = std::min(block.lanes, s.n_examples - first);
  if (!s.plain()) {
    (s.pairs() ? unpool_row<2> : unpool_row<0>)(to, block.channel, block.row, block.lanes,
                                                bias_partial, gradient, index, s, py, first,
                                                count);
    return;
  }
  for (int64_t o = 0; o < s.out_channels; o++)
    for (int64_t x = 0; x < s.pooled_width; x++)
      for (int64_t lane = 0; lane < block.lanes; lane += LANES) {
        int64_t from = ((o * s.pooled_height + py) * s.pooled_width + x) * s.n_examples + first;
        Vec value = load(gradient + from + lane, count - lane);
        at(to + o * block.channel + x * block.lanes + lane) = value;
        at(bias_partial + o * LANES) += value;
      }
}

// Zeros in the columns on either side of what the rows of a block hold.
void clear_sides(float* first_row, const Block& block, int64_t n_channels, int64_t height,
                 int64_t width, int64_t border) {
  for (int64_t o = 0; o < n_channels; o++)
    for (int64_t y = 0; y < height; y++) {
      float* row = first_row + o * block.channel + y * block.row;
      std::fill_n(row - border * block.lanes, border * block.lanes, 0.0f);
      std::fill_n(row + width * block.lanes, border * block.lanes, 0.0f);
    }
}

void input_gradient(float* result, Block by_output, const Weights& weights, const Shape& s) {
  int64_t height = s.out_height(), width = s.out_width(), lanes = by_output.lanes;
  int64_t n_pixels = tile_pixels(lanes);
  Window window = {by_output, s.out_channels, nullptr, s.kernel_height, s.kernel_width, {}, {}};
  auto shared = [&](int64_t x) {
    return shared_taps(x, n_pixels, s.kernel_width, s.padding_width, width);
  };
  auto alone = [&](int64_t x) {
    return backward_taps(x, s.kernel_width, s.stride_width, s.padding_width, width);
  };
  for (int64_t y = 0; y < s.in_height; y++) {
    window.rows = backward_taps(y, s.kernel_height, s.stride_height, s.padding_height, height);
    plain_row(result + y * s.in_width * lanes, s.in_height * s.in_width * lanes, s.in_width,
              nullptr, window, lanes, weights, s.stride_width == 1, shared, alone);
  }
}

// One run's gradients from the examples from `first` on: the weights' and the bias's onto their
// partial sums, the input's only if asked for.
void backward_block(float* by_input, float* partial, float* bias_partial, const float* gradient,
                    const uint8_t* index, Block source, const Weights& weights, const Shape& s,
                    int64_t first, Ahead& ahead) {
  static thread_local Buffer packed_gradient, packed_result;
  int64_t height = s.out_height(), width = s.out_width(), lanes = source.lanes;
  int64_t border = by_input && s.stride_width == 1 ? tile_pixels(lanes) - 1 : 0;
  int64_t n_strip = std::min(strip_rows(s, lanes), s.pooled_height);  // of pooled rows
  // The input's gradient needs all rows at once; the weights' are worked off while they are near.
  Pitch pitch(by_input ? height : n_strip * s.pool_height, width + 2 * border);
  packed_gradient.resize(s.out_channels * pitch.channel * lanes);
  float* rows = packed_gradient.data() + border * lanes;
  Block by_output = {rows, pitch.channel * lanes, pitch.row * lanes, lanes};
  if (border) clear_sides(rows, by_output, s.out_channels, height, width, border);
  for (int64_t top = 0; top < s.pooled_height; top += n_strip) {
    int64_t y = top * s.pool_height, end = std::min(top + n_strip, s.pooled_height);
    float* to = by_input ? rows + y * by_output.row : rows;
    for (int64_t py = top; py < end; py++)
      unpool(to + (py - top) * s.pool_height * by_output.row, by_output, bias_partial, gradient,
             index, s, py, first);
    Block strip = {to, by_output.channel, by_output.row, lanes};
    Block input = {source.data + y * s.stride_height * source.row, source.channel, source.row,
                   lanes};
    weight_gradient(partial, strip, input, (end - top) * s.pool_height, s, ahead);
  }
  if (!by_input) return;
  int64_t n_pixels = s.in_channels * s.in_height * s.in_width;
  bool direct = s.n_examples == lanes;
  if (!direct) packed_result.resize(n_pixels * lanes);
  input_gradient(direct ? by_input : packed_result.data(), by_output, weights, s);
  if (direct) return;
  int64_t count = std::min(lanes, s.n_examples - first);
  for (int64_t i = 0; i < n_pixels; i++)
    std::memcpy(by_input + i * s.n_examples + first, packed_result.data() + i * lanes,
                count * sizeof(float));
}

void backward_run(float* by_input, float* by_weight, float* by_bias, const float* gradient,
                  const uint8_t* index, const float* input, const float* weight, const Shape& s,
                  Ahead& ahead) {
  static thread_local Buffer packed_input, partial;
  static thread_local Weights weights;
  if (by_input) weights.pack(weight, s, true);
  int64_t n_weights = s.n_weights();
  partial.resize((n_weights + s.out_channels) * LANES);
  std::fill_n(partial.data(), partial.size(), 0.0f);
  float* bias_partial = partial.data() + n_weights * LANES;
  for (int64_t first = 0; first < s.n_examples; first += block_lanes(s, first))
    backward_block(by_input, partial.data(), bias_partial, gradient, index,
                   input_block(packed_input, input, s, first, block_lanes(s, first)), weights, s,
                   first, ahead);
  for (int64_t i = 0; i < n_weights; i++)
    by_weight[i] = lane_sum<LANES>(partial.data() + i * LANES);
  for (int64_t o = 0; o < s.out_channels; o++)
    by_bias[o] = lane_sum<LANES>(bias_partial + o * LANES);
}

}  // namespace

extern "C" {

void trainpilot_forward(float* out, uint8_t* index, const float* input, const float* weight,
                        const float* bias, const Shape* shape) {
  static thread_local Buffer packed_input;
  static thread_local Weights weights;
  const Shape& s = *shape;
  Block source = {};
  for (int64_t first = 0; first < s.n_examples; first += block_lanes(s, first))
    for (int64_t r = 0; r < s.n_rows; r++) {
      // What all runs share is packed once.
      if (r == 0 || s.input_stride)
        source = input_block(packed_input, input + r * s.input_stride, s, first,
                             block_lanes(s, first));
      weights.pack(weight + r * s.weight_stride, s, false);
      Ahead ahead;
      if (s.input_stride && r + 1 < s.n_rows)
        ahead = {input + (r + 1) * s.input_stride, s.n_inputs() * 4,
                 s.n_outputs() / (s.out_channels * LANES)};
      forward_block(out + r * s.n_outputs(), s.plain() ? nullptr : index + r * s.n_outputs(),
                    source, weights, bias ? bias + r * s.bias_stride : nullptr, s, first, ahead);
    }
}

// `by_input` may be null: the first layer's is not needed.
void trainpilot_backward(float* by_input, float* by_weight, float* by_bias, const float* gradient,
                         const uint8_t* index, const float* input, const float* weight,
                         const Shape* shape) {
  const Shape& s = *shape;
  for (int64_t r = 0; r < s.n_rows; r++) {
    Ahead ahead;
    if (s.input_stride && r + 1 < s.n_rows)
      ahead = {input + (r + 1) * s.input_stride, s.n_inputs() * 4, n_correlations(s)};
    backward_run(by_input ? by_input + r * s.n_inputs() : nullptr, by_weight + r * s.n_weights(),
                 by_bias + r * s.out_channels, gradient + r * s.n_outputs(),
                 s.plain() ? nullptr : index + r * s.n_outputs(), input + r * s.input_stride,
                 weight + r * s.weight_stride, s, ahead);
  }
}

void trainpilot_pool(float* out, uint8_t* index, const float* input, const Shape* shape) {
  const Shape& s = *shape;
  int64_t n = s.n_examples, row = s.in_width * n, channel = s.in_height * row;
  for (int64_t r = 0; r < s.n_rows; r++)
    for (int64_t py = 0; py < s.pooled_height; py++)
      (s.pairs() ? pool_row<2> : pool_row<0>)(
          out + r * s.n_outputs(), index + r * s.n_outputs(),
          {input + r * s.input_stride + py * s.pool_height * row, channel, row, n}, s, py, 0, n);
}

void trainpilot_pool_backward(float* by_input, const float* gradient, const uint8_t* index,
                              const Shape* shape) {
  const Shape& s = *shape;
  int64_t n = s.n_examples, row = s.in_width * n, channel = s.in_height * row;
  int64_t in_size = s.out_channels * channel;
  if (s.out_height() != s.in_height || s.out_width() != s.in_width)
    std::memset(by_input, 0, s.n_rows * in_size * sizeof(float));
  for (int64_t r = 0; r < s.n_rows; r++)
    for (int64_t py = 0; py < s.pooled_height; py++)
      (s.pairs() ? unpool_row<2> : unpool_row<0>)(
          by_input + r * in_size + py * s.pool_height * row, channel, row, n, nullptr,
          gradient + r * s.n_outputs(), index + r * s.n_outputs(), s, py, 0, n);
}
}
