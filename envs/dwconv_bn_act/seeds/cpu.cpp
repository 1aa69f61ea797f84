#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

constexpr int64_t kChannels = 64;  // channels whose sums stay in registers

static float activate(float y, int64_t activation) {
  if (activation == 2) return y / (1.f + std::exp(-y));
  return activation == 1 ? std::max(y, 0.f) : y;
}

template <typename T>
static void run(T* out, const T* input, const T* weight, const T* bias, int64_t images, int64_t height, int64_t width, int64_t channels,
                int64_t out_height, int64_t out_width, int64_t kernel, int64_t stride, int64_t padding, int64_t activation) {
  // Tap by tap instead of channel by channel, so that neighbouring channels read neighbouring weights.
  const int64_t taps = kernel * kernel;
  std::vector<float> filters(taps * channels);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) filters[tap * channels + c] = fk::load(weight + c * taps + tap);
  }
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < images * out_height; ++line) {
    const int64_t image = line / out_height, top = line % out_height * stride - padding;
    const int64_t first_row = std::max<int64_t>(0, -top), last_row = std::min(kernel, height - top);
    for (int64_t c = 0; c < channels; c += kChannels) {
      const int64_t count = std::min(kChannels, channels - c);
      for (int64_t j = 0; j < out_width; ++j) {
        const int64_t left = j * stride - padding;
        const int64_t first_column = std::max<int64_t>(0, -left), last_column = std::min(kernel, width - left);
        float sum[kChannels];
        for (int64_t i = 0; i < count; ++i) sum[i] = fk::load(bias + c + i);
        for (int64_t r = first_row; r < last_row; ++r) {
          for (int64_t s = first_column; s < last_column; ++s) {
            const T* x = input + ((image * height + top + r) * width + left + s) * channels + c;
            const float* w = filters.data() + (r * kernel + s) * channels + c;
            if (count == kChannels) {
#pragma omp simd
              for (int64_t i = 0; i < kChannels; ++i) sum[i] += w[i] * fk::load(x + i);
            } else {
              for (int64_t i = 0; i < count; ++i) sum[i] += w[i] * fk::load(x + i);
            }
          }
        }
        T* y = out + (line * out_width + j) * channels + c;
        for (int64_t i = 0; i < count; ++i) fk::store(y + i, activate(sum[i], activation));
      }
    }
  }
}

void dwconv_bn_act(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias,
                   int64_t stride, int64_t padding, int64_t activation) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), fk::data<T>(bias), input.size(0), input.size(1), input.size(2),
           input.size(3), out.size(1), out.size(2), weight.size(1), stride, padding, activation);
  });
}
