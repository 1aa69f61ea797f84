#include <algorithm>
#include <cmath>
#include <fastkernels.h>

using View = tvm::ffi::TensorView;

// Side and channels of the common layers are known to the compiler: the sums stay in registers.
template <typename T, int Side>
static void depthwise(T* out, const T* input, const T* weight, const T* bias, View in, View to, int64_t stride, bool activated) {
  constexpr int64_t kBlock = 16;
  const int64_t height = in.size(1), width = in.size(2), channels = in.size(3), rows = to.size(1), columns = to.size(2);
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t b = 0; b < in.size(0); ++b)
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x)
        for (int64_t first = 0; first < channels; first += kBlock) {
          const int64_t count = std::min(kBlock, channels - first);
          float sum[kBlock];
          for (int64_t c = 0; c < count; ++c) sum[c] = fk::load(bias + first + c);
          for (int64_t i = 0; i < Side; ++i) {
            const int64_t from_y = y * stride + i - Side / 2;
            if (from_y < 0 || from_y >= height) continue;
            for (int64_t j = 0; j < Side; ++j) {
              const int64_t from_x = x * stride + j - Side / 2;
              if (from_x < 0 || from_x >= width) continue;
              const T* pixel = input + ((b * height + from_y) * width + from_x) * channels + first;
              const T* tap = weight + (i * Side + j) * channels + first;
#pragma omp simd
              for (int64_t c = 0; c < count; ++c) sum[c] += fk::load(pixel + c) * fk::load(tap + c);
            }
          }
          T* target = out + ((b * rows + y) * columns + x) * channels + first;
          for (int64_t c = 0; c < count; ++c) fk::store(target + c, activated ? sum[c] / (1.f + std::exp(-sum[c])) : sum[c]);
        }
}

void depthwise_conv(View out, View input, View weight, View bias, int64_t stride, bool activated) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    auto* run = weight.size(0) == 7 ? &depthwise<T, 7> : weight.size(0) == 5 ? &depthwise<T, 5> : &depthwise<T, 3>;
    run(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), fk::data<T>(bias), input, out, stride, activated);
  });
}

void max_pool(View out, View input) {
  const int64_t height = input.size(1), width = input.size(2), channels = input.size(3);
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* in = fk::data<T>(input);
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < input.size(0); ++b)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
          for (int64_t c = 0; c < channels; ++c) {
            float most = -INFINITY;
            for (int64_t i = std::max<int64_t>(y - 2, 0); i <= std::min(y + 2, height - 1); ++i)
              for (int64_t j = std::max<int64_t>(x - 2, 0); j <= std::min(x + 2, width - 1); ++j)
                most = std::max(most, fk::load(in + ((b * height + i) * width + j) * channels + c));
            fk::store(fk::data<T>(out) + ((b * height + y) * width + x) * channels + c, most);
          }
  });
}

void box_decode(View out, View bins, View centres, View strides) {
  const int64_t cells = bins.size(1), count = bins.size(3);
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
#pragma omp parallel for schedule(static)
    for (int64_t place = 0; place < bins.size(0) * cells; ++place) {
      const int64_t cell = place % cells;
      const float scale = fk::load(fk::data<T>(strides) + cell);
      for (int64_t side = 0; side < 4; ++side) {
        const T* row = fk::data<T>(bins) + (place * 4 + side) * count;
        float most = -INFINITY, total = 0.f, mean = 0.f;
        for (int64_t k = 0; k < count; ++k) most = std::max(most, fk::load(row + k));
        for (int64_t k = 0; k < count; ++k) {
          const float p = std::exp(fk::load(row + k) - most);
          total += p;
          mean += p * float(k);
        }
        const float centre = fk::load(fk::data<T>(centres) + cell * 2 + side % 2), distance = mean / total;
        fk::store(fk::data<T>(out) + place * 4 + side, (side < 2 ? centre - distance : centre + distance) * scale);
      }
    }
  });
}
