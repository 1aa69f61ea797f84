#include <fastkernels.h>

// Right, and slower than any library.
template <typename T>
static void dots(T* out, const T* x, const T* weight, const T* bias, int64_t M, int64_t N, int64_t K) {
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < M; ++m) {
      float sum = 0.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < K; ++k) sum += fk::load(x + m * K + k) * fk::load(weight + n * K + k);
      fk::store(out + m * N + n, sum + fk::load(bias + n));
    }
  }
}

static void honest(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    dots<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(weight), fk::data<T>(bias), out.size(0), out.size(1), x.size(1));
  });
}
