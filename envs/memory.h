// Scratch memory, and fetching what is needed next.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

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

// Fetches memory that is needed next, a little at each call: arithmetic goes on meanwhile. The
// processor by itself foresees long walks only, and these arrays are read in many short ones.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* from, int64_t n_bytes, int64_t n_calls)
      : next_(static_cast<const char*>(from)), end_(next_ + n_bytes),
        step_(LINE * (n_bytes / (LINE * std::max<int64_t>(1, n_calls)) + 1)) {}
  void fetch() {
    const char* stop = next_ + std::min(step_, end_ - next_);
    for (; next_ < stop; next_ += LINE) __builtin_prefetch(next_, 0, 2);
  }

 private:
  static constexpr int64_t LINE = 64;
  const char* next_ = nullptr;
  const char* end_ = nullptr;
  int64_t step_ = 0;
};

}  // namespace
