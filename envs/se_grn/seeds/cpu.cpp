#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

constexpr int64_t kChannels = 64;  // channels that are summed together
constexpr int64_t kPixels = 16;    // pixels that are scaled together

static float sigmoid(float x) { return 1.f / (1.f + std::exp(-x)); }

template <typename T>
static float dot(const float* a, const T* b, int64_t count) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * fk::load(b + i);
  return sum;
}

template <typename T>
static void run(T* out, const T* input, const T* reduce, const T* reduce_bias, const T* expand, const T* expand_bias, int64_t images,
                int64_t pixels, int64_t channels, int64_t hidden) {
  const int64_t blocks = (channels + kChannels - 1) / kChannels, strips = (pixels + kPixels - 1) / kPixels;
  std::vector<float> means(images * channels), squeezed(images * hidden), gates(images * channels);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < images * blocks; ++unit) {
      const int64_t n = unit / blocks, c = unit % blocks * kChannels, count = std::min(kChannels, channels - c);
      float sum[kChannels] = {};
      for (int64_t s = 0; s < pixels; ++s) {
        const T* x = input + (n * pixels + s) * channels + c;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) sum[i] += fk::load(x + i);
      }
      for (int64_t i = 0; i < count; ++i) means[n * channels + c + i] = sum[i] / float(pixels);
    }
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < images * hidden; ++unit) {
      const int64_t n = unit / hidden, r = unit % hidden;
      const float z = fk::load(reduce_bias + r) + dot(means.data() + n * channels, reduce + r * channels, channels);
      squeezed[unit] = z * sigmoid(z);
    }
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < images * channels; ++unit) {
      const int64_t n = unit / channels, c = unit % channels;
      gates[unit] = sigmoid(fk::load(expand_bias + c) + dot(squeezed.data() + n * hidden, expand + c * hidden, hidden));
    }
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < images * strips; ++unit) {
      const int64_t n = unit / strips, first = unit % strips * kPixels;
      const float* gate = gates.data() + n * channels;
      for (int64_t s = first; s < std::min(pixels, first + kPixels); ++s) {
        const int64_t row = (n * pixels + s) * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) fk::store(out + row + c, fk::load(input + row + c) * gate[c]);
      }
    }
  }
}

void squeeze_excite(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView reduce_weight,
                    tvm::ffi::TensorView reduce_bias, tvm::ffi::TensorView expand_weight, tvm::ffi::TensorView expand_bias) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(reduce_weight), fk::data<T>(reduce_bias), fk::data<T>(expand_weight),
           fk::data<T>(expand_bias), input.size(0), input.size(1), input.size(2), reduce_weight.size(0));
  });
}
