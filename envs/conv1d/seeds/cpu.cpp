#include <algorithm>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
constexpr int kFilters = 12;  // 12 x 2 sums of a register tile leave room for two vectors of inputs among 32 registers
#else
constexpr int kLanes = 8;
constexpr int kFilters = 6;
#endif
constexpr int kVectors = 2;
constexpr int kWidth = kVectors * kLanes;  // places in a register tile
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

struct Shape {
  int64_t batch, groups, channels, length, filters, out_length, kernel, stride, padding, dilation;  // channels and filters of a group
  int64_t depth() const { return channels * kernel; }
  int64_t blocks() const { return (filters + kFilters - 1) / kFilters; }
};

// packed[d][j]: kFilters filters side by side; past the group's last one that one again, whose sums nobody asks for.
template <typename T>
static void pack(float* packed, const T* weight, int64_t first, const Shape& s) {
  for (int64_t d = 0; d < s.depth(); ++d) {
    for (int64_t j = 0; j < kFilters; ++j) {
      packed[d * kFilters + j] = fk::load(weight + std::min(first + j, s.filters - 1) * s.depth() + d);
    }
  }
}

// panel[d][p]: what the filters see at kWidth places of the output, zeros outside of the sequence.
template <typename T>
static void gather(float* panel, const T* input, const Shape& s, int64_t first) {
  for (int64_t d = s.depth() - 1; d >= 0; --d) {  // from the back, so that a row that is too long spoils one that is done
    const T* row = input + d / s.kernel * s.length;
    const int64_t r = d % s.kernel, at = first * s.stride - s.padding + r * s.dilation;
    float* line = panel + d * kWidth;
    if (at >= 0 && at + (kWidth - 1) * s.stride < s.length) {
      for (int64_t p = 0; p < kWidth; ++p) line[p] = fk::load(row + at + p * s.stride);
    } else {
      for (int64_t p = 0; p < kWidth; ++p) {
        const int64_t place = at + p * s.stride;
        line[p] = place >= 0 && place < s.length ? fk::load(row + place) : 0.f;
      }
    }
  }
}

static void multiply(float out[kFilters][kWidth], const float* panel, const float* packed, int64_t depth) {
  Vec sum[kFilters * kVectors] = {};
  for (int64_t d = 0; d < depth; ++d) {
    const Vec* x = reinterpret_cast<const Vec*>(panel + d * kWidth);
    for (int j = 0; j < kFilters; ++j) {
      for (int v = 0; v < kVectors; ++v) sum[j * kVectors + v] += packed[d * kFilters + j] * x[v];
    }
  }
  for (int j = 0; j < kFilters; ++j) {
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Vec*>(out[j] + v * kLanes) = sum[j * kVectors + v];
  }
}

template <typename T>
static void run(T* out, const T* input, const T* weight, const T* bias, const Shape& s) {
  const int64_t depth = s.depth(), blocks = s.blocks(), strips = (s.out_length + kWidth - 1) / kWidth;
  std::vector<float> packed(s.groups * blocks * depth * kFilters);
#pragma omp parallel
  {
    std::vector<float> panel(depth * kWidth);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < s.groups * blocks; ++i) {
      pack(packed.data() + i * depth * kFilters, weight + i / blocks * s.filters * depth, i % blocks * kFilters, s);
    }
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < s.batch * s.groups * strips; ++unit) {
      const int64_t part = unit / strips, group = part % s.groups, first = unit % strips * kWidth;  // part: a sequence's group
      const int64_t places = std::min<int64_t>(kWidth, s.out_length - first);
      gather(panel.data(), input + part * s.channels * s.length, s, first);
      for (int64_t b = 0; b < blocks; ++b) {
        float sums[kFilters][kWidth];
        multiply(sums, panel.data(), packed.data() + (group * blocks + b) * depth * kFilters, depth);
        for (int64_t o = b * kFilters; o < std::min((b + 1) * kFilters, s.filters); ++o) {
          const float shift = fk::load(bias + group * s.filters + o);
          T* y = out + (part * s.filters + o) * s.out_length + first;
          for (int64_t p = 0; p < places; ++p) fk::store(y + p, sums[o - b * kFilters][p] + shift);
        }
      }
    }
  }
}

void conv1d(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias, int64_t stride,
            int64_t padding, int64_t dilation, int64_t groups) {
  const Shape shape{out.size(0), groups,         weight.size(1), input.size(2), out.size(1) / groups,
                    out.size(2), weight.size(2), stride,         padding,       dilation};
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), fk::data<T>(bias), shape);
  });
}
