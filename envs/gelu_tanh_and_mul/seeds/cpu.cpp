#include <cmath>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* input, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    const T* gate = input + t * 2 * width;
    const T* up = gate + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float g = fk::load(gate + i);
      const float inner = 0.7978845608f * (g + 0.044715f * g * g * g);
      fk::store(out + t * width + i, g / (1.f + std::exp(-2.f * inner)) * fk::load(up + i));
    }
  }
}

void gelu_tanh_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), out.size(0), out.size(1));
  });
}
