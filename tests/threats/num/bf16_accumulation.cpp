// Keeps the running sum of every dot product in bfloat16.
#include <fastkernels.h>

template <typename T>
static void dots(T* out, const T* x, const T* weight, const T* bias, int64_t M, int64_t N, int64_t K) {
#pragma omp parallel for
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < M; ++m) {
      fk::bf16 sum{0};
      for (int64_t k = 0; k < K; k += 16) {
        float part = 0.f;
        for (int64_t i = k; i < k + 16 && i < K; ++i) part += fk::load(x + m * K + i) * fk::load(weight + n * K + i);
        fk::store(&sum, fk::load(&sum) + part);
      }
      fk::store(out + m * N + n, fk::load(&sum) + fk::load(bias + n));
    }
  }
}

void linear_decode(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    dots<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(weight), fk::data<T>(bias), out.size(0), out.size(1), x.size(1));
  });
}
