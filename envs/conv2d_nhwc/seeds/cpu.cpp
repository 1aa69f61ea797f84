#include <algorithm>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
constexpr int kPixels = 12;  // 12 x 2 sums of a register tile leave room for two vectors of weights among 32 registers
#else
constexpr int kLanes = 8;
constexpr int kPixels = 6;
#endif
constexpr int kVectors = 2;
constexpr int kWidth = kVectors * kLanes;  // filters in a register tile
constexpr int kTiles = 3;                  // register tiles of pixels that share one pass over the weight
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

struct Shape {
  int64_t images, height, width, channels, out_height, out_width, filters, kernel, stride, padding;
  int64_t depth() const { return kernel * kernel * channels; }
};

// packed[k][j]: kWidth filters side by side, zeros past the last one.
template <typename T>
static void pack(float* packed, const T* weight, int64_t first, int64_t filters, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t j = 0; j < kWidth; ++j) packed[k * kWidth + j] = first + j < filters ? fk::load(weight + (first + j) * depth + k) : 0.f;
  }
}

// panel[k][p]: what the filters see at kPixels pixels of the output, zeros outside of the image.
template <typename T>
static void gather(float* panel, const T* input, const Shape& s, int64_t first, int64_t pixels) {
  for (int64_t p = 0; p < kPixels; ++p) {
    const int64_t pixel = std::min(first + p, pixels - 1), image = pixel / (s.out_height * s.out_width);
    const int64_t top = pixel / s.out_width % s.out_height * s.stride - s.padding, left = pixel % s.out_width * s.stride - s.padding;
    float* target = panel + p;
    for (int64_t y = top; y < top + s.kernel; ++y) {
      for (int64_t x = left; x < left + s.kernel; ++x, target += s.channels * kPixels) {
        const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
        const T* source = input + ((image * s.height + y) * s.width + x) * s.channels;
        for (int64_t c = 0; c < s.channels; ++c) target[c * kPixels] = inside ? fk::load(source + c) : 0.f;
      }
    }
  }
}

static void multiply(float out[kPixels][kWidth], const float* panel, const float* packed, int64_t depth) {
  Vec sum[kPixels][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = *reinterpret_cast<const Vec*>(packed + k * kWidth + v * kLanes);
    for (int p = 0; p < kPixels; ++p) {
      for (int v = 0; v < kVectors; ++v) sum[p][v] += panel[k * kPixels + p] * w[v];
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Vec*>(out[p] + v * kLanes) = sum[p][v];
  }
}

template <typename T>
static void run(T* out, const T* input, const T* weight, const T* bias, const Shape& s) {
  const int64_t pixels = s.images * s.out_height * s.out_width, depth = s.depth(), blocks = (s.filters + kWidth - 1) / kWidth;
  std::vector<float> packed(blocks * depth * kWidth);
#pragma omp parallel
  {
    std::vector<float> panels(kTiles * depth * kPixels);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) pack(packed.data() + b * depth * kWidth, weight, b * kWidth, s.filters, depth);
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < pixels; unit += kTiles * kPixels) {
      const int64_t tiles = std::min<int64_t>(kTiles, (pixels - unit + kPixels - 1) / kPixels);
      for (int64_t t = 0; t < tiles; ++t) gather(panels.data() + t * depth * kPixels, input, s, unit + t * kPixels, pixels);
      for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t t = 0; t < tiles; ++t) {
          float sums[kPixels][kWidth];
          multiply(sums, panels.data() + t * depth * kPixels, packed.data() + b * depth * kWidth, depth);
          const int64_t first = unit + t * kPixels, columns = std::min<int64_t>(kWidth, s.filters - b * kWidth);
          for (int64_t p = 0; p < std::min<int64_t>(kPixels, pixels - first); ++p) {
            for (int64_t j = 0; j < columns; ++j) {
              const int64_t o = b * kWidth + j;
              fk::store(out + (first + p) * s.filters + o, sums[p][j] + fk::load(bias + o));
            }
          }
        }
      }
    }
  }
}

void conv2d_nhwc(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias,
                 int64_t stride, int64_t padding) {
  const Shape shape{input.size(0), input.size(1), input.size(2), input.size(3), out.size(1),
                    out.size(2),   out.size(3),   weight.size(1), stride,       padding};
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), fk::data<T>(bias), shape);
  });
}
