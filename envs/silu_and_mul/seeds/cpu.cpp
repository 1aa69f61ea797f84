#include <algorithm>
#include <cmath>
#include <fastkernels.h>

constexpr int64_t kBlock = 1024;  // columns a task: a single decode row still feeds every core

template <typename T>
static void run(T* out, const T* input, int64_t rows, int64_t width) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t begin = 0; begin < width; begin += kBlock) {
      const T* gate = input + t * 2 * width;
      const T* up = gate + width;
      T* y = out + t * width;
      const int64_t end = std::min(begin + kBlock, width);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float g = fk::load(gate + i);
        fk::store(y + i, g / (1.f + std::exp(-g)) * fk::load(up + i));
      }
    }
  }
}

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), out.size(0), out.size(1));
  });
}
