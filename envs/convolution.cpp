// Direct convolutions of many runs, each with its own weights, with ReLU and max pooling fused in.
//
// The examples of a batch are the vector lanes: every array is (..., channel, row, column, example).
// So no width is too odd for the vectors, borders are loop bounds and not masks, and a pooling
// window or a stride costs nothing. A block of up to 32 examples is worked on at a time; other
// batch sizes are packed into such blocks, the last one filled up with zeros.
//
// Plain C++ with the vector extension of GCC and Clang; compiled by native_code.py.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

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

constexpr uint8_t BLOCKED = 255;  // in an index: ReLU cut this one off, it has no gradient

inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }

template <class F, int... I>
inline __attribute__((always_inline)) void unrolled(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
// Calls f(0), ..., f(N - 1) with constants, so that arrays of accumulators become registers.
template <int N, class F>
inline __attribute__((always_inline)) void unrolled(F f) {
  unrolled(f, std::make_integer_sequence<int, N>{});
}

// The order and the types are those of `_Shape` in convolution.py.
struct Shape {
  int64_t n_rows, input_stride, weight_stride, bias_stride;  // strides from run to run
  int64_t n_examples, in_channels, in_height, in_width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t stride_height, stride_width, padding_height, padding_width;
  int64_t pool_height, pool_width;  // pooling windows do not overlap; 1 x 1 without pooling
  int64_t relu;
  int64_t pooled_height, pooled_width;
  int64_t examples_first;  // the input alone: (example, channel, row, column), as data come

  // Only the part of the convolution that some pooling window covers is ever computed.
  int64_t out_height() const { return pooled_height * pool_height; }
  int64_t out_width() const { return pooled_width * pool_width; }
  bool pairs() const { return pool_height == 2 && pool_width == 2; }
  bool plain() const { return pool_height * pool_width == 1 && !relu; }
};

// Where a dense block of L examples lies: floats from channel to channel and from row to row.
struct Block {
  const float* data;
  int64_t channel, row;
};

// Rows and channels an odd number of pixels apart. At powers of two they would all fall into the
// same few lines of the nearest cache and drive each other out (measured: 45 GFLOP/s, not 100).
struct Pitch {
  int64_t row, channel;
  Pitch(int64_t height, int64_t width) : row(width | 1), channel((height * row) | 1) {}
};
bool spreads(int64_t channels, int64_t height, int64_t width) {
  return width % 8 && (channels == 1 || height * width % 8);
}

// The taps of a kernel that meet the input at one place along one axis, as two arithmetic
// sequences: the taps, and where in the source they read.
struct Taps {
  int64_t tap, tap_step, source, source_step, count;
};

// Output `i` of a convolution reads input i * stride - padding + tap.
Taps forward_taps(int64_t i, int64_t kernel, int64_t stride, int64_t padding, int64_t n_in) {
  int64_t start = i * stride - padding;
  int64_t first = std::max<int64_t>(0, -start), end = std::min(kernel, n_in - start);
  return {first, 1, start + first, 1, std::max<int64_t>(0, end - first)};
}

// Input `i` was read by output (i + padding - tap) / stride, where that is a whole number.
Taps backward_taps(int64_t i, int64_t kernel, int64_t stride, int64_t padding, int64_t n_out) {
  int64_t reach = i + padding;
  int64_t first = reach % stride;
  int64_t source = reach / stride;  // of the first tap
  if (source >= n_out) {
    first += (source - n_out + 1) * stride;
    source = n_out - 1;
  }
  if (first >= kernel) return {0, 0, 0, 0, 0};
  int64_t count = std::min((kernel - first + stride - 1) / stride, source + 1);
  return {first, stride, source, -1, count};
}

// A pixel of BLOCK output channels: sums weight * source over channels and taps, onto `start` or
// else onto what the output holds. The weights are packed (channel, tap row, tap column, BLOCK).
template <int BLOCK, int WIDTH>
void gather_pixel(float* out, int64_t out_stride, const float* start, Block source,
                  int64_t n_channels, const float* weights, int64_t kernel_height,
                  int64_t kernel_width, const Taps& rows, const Taps& columns) {
  constexpr int L = WIDTH * LANES;
  Vec sum[BLOCK][WIDTH];
  unrolled<BLOCK>([&](auto o) {
    unrolled<WIDTH>([&](auto j) {
      sum[o][j] = start ? Vec{} + start[o] : at(out + o * out_stride + j * LANES);
    });
  });
  for (int64_t c = 0; c < n_channels; c++) {
    for (int64_t a = 0; a < rows.count; a++) {
      const float* s = source.data + c * source.channel +
                       (rows.source + a * rows.source_step) * source.row + columns.source * L;
      const float* w = weights + ((c * kernel_height + rows.tap + a * rows.tap_step) * kernel_width +
                                  columns.tap) * BLOCK;
      for (int64_t b = 0; b < columns.count; b++) {
        Vec value[WIDTH];
        unrolled<WIDTH>([&](auto j) { value[j] = at(s + j * LANES); });
        unrolled<BLOCK>([&](auto o) {
          unrolled<WIDTH>([&](auto j) { sum[o][j] += w[o] * value[j]; });
        });
        s += columns.source_step * L;
        w += columns.tap_step * BLOCK;
      }
    }
  }
  unrolled<BLOCK>([&](auto o) {
    unrolled<WIDTH>([&](auto j) { at(out + o * out_stride + j * LANES) = sum[o][j]; });
  });
}

// BLOCK x TAPS weights' gradients, each still a vector of partial sums over the examples.
// `input` is padded already, so that every tap of every output reads inside it.
template <int BLOCK, int TAPS, int WIDTH>
void correlate(float* partial, int64_t partial_stride, const float* gradient,
               int64_t gradient_channel, int64_t gradient_row, const float* input,
               int64_t input_row, int64_t n_rows, int64_t n_columns, int64_t column_stride) {
  constexpr int L = WIDTH * LANES;
  Vec sum[BLOCK][TAPS];
  unrolled<BLOCK>([&](auto o) {
    unrolled<TAPS>([&](auto t) { sum[o][t] = at(partial + o * partial_stride + t * LANES); });
  });
  for (int64_t y = 0; y < n_rows; y++) {
    const float* g = gradient + y * gradient_row;
    const float* s = input + y * input_row;
    for (int64_t x = 0; x < n_columns; x++) {
      unrolled<WIDTH>([&](auto j) {
        Vec value[TAPS];
        unrolled<TAPS>([&](auto t) { value[t] = at(s + t * L + j * LANES); });
        unrolled<BLOCK>([&](auto o) {
          Vec of = at(g + o * gradient_channel + j * LANES);
          unrolled<TAPS>([&](auto t) { sum[o][t] += of * value[t]; });
        });
      });
      g += L;
      s += column_stride * L;
    }
  }
  unrolled<BLOCK>([&](auto o) {
    unrolled<TAPS>([&](auto t) { at(partial + o * partial_stride + t * LANES) = sum[o][t]; });
  });
}

// Sums per register block: enough of them to hide the latency of an addition, and with the
// operands no more than the 32 (AVX-512, NEON) or 16 vector registers.
#if defined(__AVX512F__) || !defined(__AVX__)
constexpr int MOST_SUMS = 24;
#else
constexpr int MOST_SUMS = 12;
#endif
constexpr int MOST_TAPS = 5;
template <int WIDTH>
constexpr int MOST_CHANNELS = std::min(8, MOST_SUMS / WIDTH);
constexpr int most_correlated(int taps) { return taps == 1 ? 8 : std::min(4, MOST_SUMS / taps); }

// Channels in equal blocks: 16 in blocks of at most 12 are 8 + 8, and not 12 + 4.
int64_t even_block(int64_t n, int64_t most) {
  int64_t n_blocks = (n + most - 1) / most;
  return (n + n_blocks - 1) / n_blocks;
}

using Gather = void (*)(float*, int64_t, const float*, Block, int64_t, const float*, int64_t,
                        int64_t, const Taps&, const Taps&);
template <int WIDTH, int... I>
Gather gather_kernel(int64_t block, std::integer_sequence<int, I...>) {
  static constexpr Gather table[] = {gather_pixel<I + 1, WIDTH>...};
  return table[block - 1];
}

using Correlate = void (*)(float*, int64_t, const float*, int64_t, int64_t, const float*, int64_t,
                           int64_t, int64_t, int64_t);
template <int WIDTH, int TAPS, int... I>
Correlate correlate_kernel(int64_t block, std::integer_sequence<int, I...>) {
  static constexpr Correlate table[] = {correlate<I + 1, TAPS, WIDTH>...};
  return table[block - 1];
}
template <int WIDTH, int TAPS = 1>
Correlate correlate_kernel(int64_t block, int64_t taps) {
  if constexpr (TAPS < MOST_TAPS)
    if (taps > TAPS) return correlate_kernel<WIDTH, TAPS + 1>(block, taps);
  return correlate_kernel<WIDTH, TAPS>(block,
                                       std::make_integer_sequence<int, most_correlated(TAPS)>{});
}

// Scratch memory that starts at a cache line: a vector across two lines costs two loads.
class Buffer {
 public:
  float* data() { return start_; }
  const float* data() const { return start_; }
  int64_t size() const { return size_; }
  void resize(int64_t size) {
    constexpr int64_t LINE = 64 / sizeof(float);
    size_ = size;
    if (size + LINE <= int64_t(memory_.size())) return;
    memory_.resize(size + LINE);
    auto address = reinterpret_cast<uintptr_t>(memory_.data());
    start_ = memory_.data() + (-address & 63) / sizeof(float);
  }

 private:
  std::vector<float> memory_;
  float* start_ = nullptr;
  int64_t size_ = 0;
};

// One run's weights (out, in, row, column) as gather_pixel reads them. With `transposed`, the
// blocks run over the input's channels instead.
void pack_weights(Buffer& packed, const float* weight, const Shape& s, int64_t block,
                  bool transposed) {
  int64_t taps = s.kernel_height * s.kernel_width;
  int64_t out_step = s.in_channels * taps, in_step = taps;
  int64_t n_blocked = s.out_channels, n_summed = s.in_channels;
  if (transposed) {
    std::swap(out_step, in_step);
    std::swap(n_blocked, n_summed);
  }
  packed.resize(n_blocked * n_summed * taps);
  float* to = packed.data();
  for (int64_t first = 0; first < n_blocked; first += block) {
    int64_t size = std::min(block, n_blocked - first);
    for (int64_t c = 0; c < n_summed; c++)
      for (int64_t t = 0; t < taps; t++)
        for (int64_t o = 0; o < size; o++)
          *to++ = weight[(first + o) * out_step + c * in_step + t];
  }
}

// Examples [first, first + count) of (channel, row, column, example) into a dense block of L
// lanes, zeros for the lanes beyond and for a border of padding.
template <int L>
Block pack_block(Buffer& packed, const float* from, int64_t n_examples, int64_t first,
                 int64_t channels, int64_t height, int64_t width, int64_t border_height = 0,
                 int64_t border_width = 0, bool examples_first = false) {
  int64_t count = std::min<int64_t>(L, n_examples - first);
  Pitch pitch(height + 2 * border_height, width + 2 * border_width);
  packed.resize(channels * pitch.channel * L);
  if (border_height || border_width || count < L)
    std::memset(packed.data(), 0, packed.size() * sizeof(float));
  for (int64_t c = 0; c < channels; c++)
    for (int64_t y = 0; y < height; y++) {
      float* to = packed.data() +
                  (c * pitch.channel + (y + border_height) * pitch.row + border_width) * L;
      int64_t pixel = (c * height + y) * width;
      if (examples_first) {
        const float* source = from + first * channels * height * width + pixel;
        for (int64_t i = 0; i < count; i++, source += channels * height * width)
          for (int64_t x = 0; x < width; x++) to[x * L + i] = source[x];
        continue;
      }
      const float* source = from + pixel * n_examples + first;
      if (n_examples == L) {
        std::memcpy(to, source, width * L * sizeof(float));
        continue;
      }
      for (int64_t x = 0; x < width; x++)
        std::memcpy(to + x * L, source + x * n_examples, count * sizeof(float));
    }
  return {packed.data(), pitch.channel * L, pitch.row * L};
}

// The reverse for an output without border.
template <int L>
void unpack_block(float* to, const Buffer& packed, int64_t n_examples, int64_t first,
                  int64_t n_pixels) {
  int64_t count = std::min<int64_t>(L, n_examples - first);
  for (int64_t i = 0; i < n_pixels; i++)
    std::memcpy(to + i * n_examples + first, packed.data() + i * L, count * sizeof(float));
}

// A row of the output of a convolution (or, `transposed`, of its gradient by the input).
template <int WIDTH>
void gather_row(float* out, int64_t out_stride, int64_t n_out, const float* start, Block source,
                int64_t n_in, const float* packed, int64_t block, int64_t kernel_height,
                int64_t kernel_width, const Taps& rows, const std::vector<Taps>& columns) {
  constexpr int L = WIDTH * LANES;
  int64_t taps = kernel_height * kernel_width;
  // So many input channels at a time that what one pixel reads stays in the nearest cache.
  int64_t most = std::max<int64_t>(1, 6144 / (taps * L));
  for (int64_t first = 0; first < n_out; first += block) {
    int64_t size = std::min(block, n_out - first);
    Gather kernel =
        gather_kernel<WIDTH>(size, std::make_integer_sequence<int, MOST_CHANNELS<WIDTH>>{});
    for (int64_t c = 0; c < n_in; c += most) {
      Block part = {source.data + c * source.channel, source.channel, source.row};
      for (size_t x = 0; x < columns.size(); x++)
        kernel(out + first * out_stride + x * L, out_stride, c ? nullptr : start + first, part,
               std::min(most, n_in - c), packed + first * n_in * taps + c * taps * size,
               kernel_height, kernel_width, rows, columns[x]);
    }
  }
}

// Up to LANES examples; the lanes beyond are zeros, and are not stored.
inline Vec load(const float* from, int64_t count) {
  if (count >= LANES) return at(from);
  Vec value = {};
  std::memcpy(&value, from, count * sizeof(float));
  return value;
}
inline void store(float* to, const Vec& value, int64_t count) {
  if (count >= LANES)
    at(to) = value;
  else
    std::memcpy(to, &value, count * sizeof(float));
}
inline Mask load_index(const uint8_t* from, int64_t count) {
  Bytes bytes = {};
  std::memcpy(&bytes, from, count >= LANES ? LANES : count);
  return __builtin_convertvector(bytes, Mask);
}
inline void store_index(uint8_t* to, const Mask& which, int64_t count) {
  Bytes bytes = __builtin_convertvector(which, Bytes);
  std::memcpy(to, &bytes, count >= LANES ? LANES : count);
}

// A row of pooled pixels for examples [first, first + count): the maximum of each window and the
// index of the first largest; a NaN wins, as in torch. The windows' top row is row 0 of `source`,
// whose pixels are `pixel` floats apart.
//
// SIDE 2 is the window of nearly all networks, known to the compiler; SIDE 0 is any other.
template <int SIDE>
void pool_row(float* out, uint8_t* index, Block source, int64_t pixel, const Shape& s, int64_t py,
              int64_t first, int64_t count) {
  const int64_t high = SIDE ? SIDE : s.pool_height, wide = SIDE ? SIDE : s.pool_width;
  for (int64_t o = 0; o < s.out_channels; o++)
    for (int64_t px = 0; px < s.pooled_width; px++) {
      int64_t to = ((o * s.pooled_height + py) * s.pooled_width + px) * s.n_examples + first;
      const float* window = source.data + o * source.channel + px * wide * pixel;
      for (int64_t i = 0; i < count; i += LANES) {
        Vec best = load(window + i, count - i);
        Mask which = {};
        int32_t k = 0;
#pragma GCC unroll 2
        for (int64_t y = 0; y < high; y++)
#pragma GCC unroll 2
          for (int64_t x = 0; x < wide; x++, k++) {
            Vec value = load(window + y * source.row + x * pixel + i, count - i);
            Mask better = (value > best) | (value != value);
            best = better ? value : best;
            which = better ? Mask{} + k : which;
          }
        if (s.relu) {
          Mask off = best <= Vec{};
          best = off ? Vec{} : best;
          which = off ? Mask{} + int32_t(BLOCKED) : which;
        }
        store(out + to + i, best, count - i);
        store_index(index + to + i, which, count - i);
      }
    }
}

// The reverse: each window's gradient where its maximum was, zeros elsewhere in the window.
template <int SIDE>
void unpool_row(float* to, int64_t channel, int64_t row, int64_t pixel, const float* gradient,
                const uint8_t* index, const Shape& s, int64_t py, int64_t first, int64_t count) {
  const int64_t high = SIDE ? SIDE : s.pool_height, wide = SIDE ? SIDE : s.pool_width;
  for (int64_t o = 0; o < s.out_channels; o++)
    for (int64_t px = 0; px < s.pooled_width; px++) {
      int64_t from = ((o * s.pooled_height + py) * s.pooled_width + px) * s.n_examples + first;
      float* window = to + o * channel + px * wide * pixel;
      for (int64_t i = 0; i < count; i += LANES) {
        Vec value = load(gradient + from + i, count - i);
        Mask which = load_index(index + from + i, count - i);
        int32_t k = 0;
#pragma GCC unroll 2
        for (int64_t y = 0; y < high; y++)
#pragma GCC unroll 2
          for (int64_t x = 0; x < wide; x++, k++)
            store(window + y * row + x * pixel + i, which == Mask{} + k ? value : Vec{}, count - i);
      }
    }
}

// The gradient by the convolution's output from that by the pooled one, as a block of L lanes.
template <int L>
Block unpool_block(Buffer& packed, const float* gradient, const uint8_t* index, const Shape& s,
                   int64_t first, int64_t count) {
  Pitch pitch(s.out_height(), s.out_width());
  packed.resize(s.out_channels * pitch.channel * L);
  if (count < L) std::fill_n(packed.data(), packed.size(), 0.0f);
  for (int64_t py = 0; py < s.pooled_height; py++)
    (s.pairs() ? unpool_row<2> : unpool_row<0>)(
        packed.data() + py * s.pool_height * pitch.row * L, pitch.channel * L,
        pitch.row * L, L, gradient, index, s, py, first, count);
  return {packed.data(), pitch.channel * L, pitch.row * L};
}

template <int WIDTH>
void forward_run(float* out, uint8_t* index, const float* input, const float* weight,
                 const float* bias, const Shape& s) {
  constexpr int L = WIDTH * LANES;
  static thread_local Buffer packed_weight, packed_input, band;
  const std::vector<float> zeros(bias ? 0 : s.out_channels);
  int64_t block = even_block(s.out_channels, MOST_CHANNELS<WIDTH>);
  pack_weights(packed_weight, weight, s, block, false);
  int64_t height = s.out_height(), width = s.out_width();
  std::vector<Taps> columns(width);
  for (int64_t x = 0; x < width; x++)
    columns[x] = forward_taps(x, s.kernel_width, s.stride_width, s.padding_width, s.in_width);
  for (int64_t first = 0; first < s.n_examples; first += L) {
    int64_t count = std::min<int64_t>(L, s.n_examples - first);
    Block source = {input, s.in_height * s.in_width * L, s.in_width * L};
    if (s.n_examples != L || s.examples_first || !spreads(s.in_channels, s.in_height, s.in_width))
      source = pack_block<L>(packed_input, input, s.n_examples, first, s.in_channels, s.in_height,
                             s.in_width, 0, 0, s.examples_first);
    bool direct = s.plain() && s.n_examples == L;
    band.resize(s.out_channels * s.pool_height * width * L);
    int64_t stride = direct ? height * width * L : s.pool_height * width * L;
    for (int64_t y = 0; y < height; y++) {
      int64_t band_row = y % s.pool_height;
      float* to = direct ? out + y * width * L : band.data() + band_row * width * L;
      Taps rows = forward_taps(y, s.kernel_height, s.stride_height, s.padding_height, s.in_height);
      gather_row<WIDTH>(to, stride, s.out_channels, bias ? bias : zeros.data(), source,
                        s.in_channels, packed_weight.data(), block, s.kernel_height,
                        s.kernel_width, rows, columns);
      if (direct || band_row + 1 < s.pool_height) continue;
      if (!s.plain()) {
        (s.pairs() ? pool_row<2> : pool_row<0>)(out, index, {band.data(), stride, width * L}, L, s, y / s.pool_height, first,
                 count);
        continue;
      }
      for (int64_t o = 0; o < s.out_channels; o++)
        for (int64_t x = 0; x < width; x++)
          std::memcpy(out + ((o * height + y) * width + x) * s.n_examples + first,
                      band.data() + (o * width + x) * L, count * sizeof(float));
    }
  }
}

template <int WIDTH>
void weight_gradient(Buffer& partial, Block gradient, Block input, const Shape& s) {
  constexpr int L = WIDTH * LANES;
  int64_t height = s.out_height(), width = s.out_width();
  int64_t taps = s.kernel_height * s.kernel_width;
  int64_t n_taps = even_block(s.kernel_width, MOST_TAPS);
  int64_t block = even_block(s.out_channels, most_correlated(n_taps));
  // So many rows at a time that the gradient's block stays in the nearest cache.
  int64_t most = std::max<int64_t>(1, 6144 / (block * width * L));
  for (int64_t o = 0; o < s.out_channels; o += block)
    for (int64_t y = 0; y < height; y += most)
      for (int64_t c = 0; c < s.in_channels; c++)
        for (int64_t a = 0; a < s.kernel_height; a++)
          for (int64_t b = 0; b < s.kernel_width; b += n_taps) {
            Correlate kernel = correlate_kernel<WIDTH>(std::min(block, s.out_channels - o),
                                                       std::min(n_taps, s.kernel_width - b));
            int64_t weight = (o * s.in_channels + c) * taps + a * s.kernel_width + b;
            const float* from = input.data + c * input.channel +
                                (y * s.stride_height + a) * input.row + b * L;
            kernel(partial.data() + weight * LANES, s.in_channels * taps * LANES,
                   gradient.data + o * gradient.channel + y * gradient.row, gradient.channel,
                   gradient.row, from, s.stride_height * input.row, std::min(most, height - y),
                   width, s.stride_width);
          }
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

template <int WIDTH>
void backward_run(float* input_gradient, float* weight_gradients, float* bias_gradient,
                  const float* gradient, const uint8_t* index, const float* input,
                  const float* weight, const Shape& s) {
  constexpr int L = WIDTH * LANES;
  static thread_local Buffer packed_weight, packed_input, packed_gradient, packed_result, partial;
  int64_t height = s.out_height(), width = s.out_width();
  int64_t n_weights = s.out_channels * s.in_channels * s.kernel_height * s.kernel_width;
  int64_t n_pixels = s.in_channels * s.in_height * s.in_width;
  int64_t block = even_block(s.in_channels, MOST_CHANNELS<WIDTH>);
  const std::vector<float> zeros(s.in_channels);
  std::vector<Taps> columns(s.in_width);
  if (input_gradient) {
    pack_weights(packed_weight, weight, s, block, true);
    for (int64_t x = 0; x < s.in_width; x++)
      columns[x] = backward_taps(x, s.kernel_width, s.stride_width, s.padding_width, width);
  }
  partial.resize((n_weights + s.out_channels) * LANES);
  std::fill_n(partial.data(), partial.size(), 0.0f);
  float* bias_partial = partial.data() + n_weights * LANES;
  for (int64_t first = 0; first < s.n_examples; first += L) {
    int64_t count = std::min<int64_t>(L, s.n_examples - first);
    Block by_output = {gradient, height * width * L, width * L};
    if (!s.plain())
      by_output = unpool_block<L>(packed_gradient, gradient, index, s, first, count);
    else if (s.n_examples != L || !spreads(s.out_channels, height, width))
      by_output = pack_block<L>(packed_gradient, gradient, s.n_examples, first, s.out_channels,
                                height, width);
    Block source = {input, s.in_height * s.in_width * L, s.in_width * L};
    if (s.n_examples != L || s.examples_first || s.padding_height || s.padding_width ||
        !spreads(s.in_channels, s.in_height, s.in_width))
      source = pack_block<L>(packed_input, input, s.n_examples, first, s.in_channels, s.in_height,
                             s.in_width, s.padding_height, s.padding_width, s.examples_first);
    weight_gradient<WIDTH>(partial, by_output, source, s);
    for (int64_t o = 0; o < s.out_channels; o++) {
      Vec sum[2] = {};
      for (int64_t y = 0; y < height; y++) {
        const float* from = by_output.data + o * by_output.channel + y * by_output.row;
        for (int64_t i = 0; i < width * WIDTH; i++) sum[i % 2] += at(from + i * LANES);
      }
      at(bias_partial + o * LANES) += sum[0] + sum[1];
    }
    if (!input_gradient) continue;
    bool direct = s.n_examples == L;
    if (!direct) packed_result.resize(n_pixels * L);
    float* result = direct ? input_gradient : packed_result.data();
    for (int64_t y = 0; y < s.in_height; y++) {
      Taps rows = backward_taps(y, s.kernel_height, s.stride_height, s.padding_height, height);
      gather_row<WIDTH>(result + y * s.in_width * L, s.in_height * s.in_width * L, s.in_channels,
                        zeros.data(), by_output, s.out_channels, packed_weight.data(), block,
                        s.kernel_height, s.kernel_width, rows, columns);
    }
    if (!direct) unpack_block<L>(input_gradient, packed_result, s.n_examples, first, n_pixels);
  }
  for (int64_t i = 0; i < n_weights; i++)
    weight_gradients[i] = lane_sum<LANES>(partial.data() + i * LANES);
  for (int64_t o = 0; o < s.out_channels; o++)
    bias_gradient[o] = lane_sum<LANES>(bias_partial + o * LANES);
}

}  // namespace

extern "C" {

void trainpilot_forward(float* out, uint8_t* index, const float* input, const float* weight,
                        const float* bias, const Shape* shape) {
  const Shape& s = *shape;
  int64_t out_size = s.out_channels * s.pooled_height * s.pooled_width * s.n_examples;
  for (int64_t r = 0; r < s.n_rows; r++)
    (s.n_examples <= LANES ? forward_run<1> : forward_run<2>)(
        out + r * out_size, s.plain() ? nullptr : index + r * out_size,
        input + r * s.input_stride, weight + r * s.weight_stride,
        bias ? bias + r * s.bias_stride : nullptr, s);
}

// `input_gradient` may be null: the first layer's is not needed.
void trainpilot_backward(float* input_gradient, float* weight_gradient, float* bias_gradient,
                         const float* gradient, const uint8_t* index, const float* input,
                         const float* weight, const Shape* shape) {
  const Shape& s = *shape;
  int64_t out_size = s.out_channels * s.pooled_height * s.pooled_width * s.n_examples;
  int64_t in_size = s.in_channels * s.in_height * s.in_width * s.n_examples;
  int64_t weight_size = s.out_channels * s.in_channels * s.kernel_height * s.kernel_width;
  for (int64_t r = 0; r < s.n_rows; r++)
    (s.n_examples <= LANES ? backward_run<1> : backward_run<2>)(
        input_gradient ? input_gradient + r * in_size : nullptr,
        weight_gradient + r * weight_size, bias_gradient + r * s.out_channels,
        gradient + r * out_size, s.plain() ? nullptr : index + r * out_size,
        input + r * s.input_stride, weight + r * s.weight_stride, s);
}

void trainpilot_pool(float* out, uint8_t* index, const float* input, const Shape* shape) {
  const Shape& s = *shape;
  int64_t n = s.n_examples, row = s.in_width * n, channel = s.in_height * row;
  int64_t out_size = s.out_channels * s.pooled_height * s.pooled_width * n;
  for (int64_t r = 0; r < s.n_rows; r++)
    for (int64_t py = 0; py < s.pooled_height; py++)
      (s.pairs() ? pool_row<2> : pool_row<0>)(out + r * out_size, index + r * out_size,
               {input + r * s.input_stride + py * s.pool_height * row, channel, row}, n, s, py, 0,
               n);
}

void trainpilot_pool_backward(float* input_gradient, const float* gradient, const uint8_t* index,
                              const Shape* shape) {
  const Shape& s = *shape;
  int64_t n = s.n_examples, row = s.in_width * n, channel = s.in_height * row;
  int64_t out_size = s.out_channels * s.pooled_height * s.pooled_width * n;
  int64_t in_size = s.out_channels * channel;
  if (s.out_height() != s.in_height || s.out_width() != s.in_width)
    std::memset(input_gradient, 0, s.n_rows * in_size * sizeof(float));
  for (int64_t r = 0; r < s.n_rows; r++)
    for (int64_t py = 0; py < s.pooled_height; py++)
      (s.pairs() ? unpool_row<2> : unpool_row<0>)(input_gradient + r * in_size + py * s.pool_height * row, channel, row, n,
                 gradient + r * out_size, index + r * out_size, s, py, 0, n);
}
}
