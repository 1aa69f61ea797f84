// Honest: a workspace that is kept between calls; every call writes what it reads of it.
#include <fastkernels.h>
#include <vector>

void linear_decode(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias) {
  static thread_local std::vector<float> wide;
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t M = out.size(0), N = out.size(1), K = x.size(1);
    if (wide.size() < size_t(M * K)) wide.resize(M * K);
    float* rows = wide.data();
    for (int64_t i = 0; i < M * K; ++i) rows[i] = fk::load(fk::data<T>(x) + i);
#pragma omp parallel for
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t m = 0; m < M; ++m) {
        float sum = 0.f;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < K; ++k) sum += rows[m * K + k] * fk::load(fk::data<T>(weight) + n * K + k);
        fk::store(fk::data<T>(out) + m * N + n, sum + fk::load(fk::data<T>(bias) + n));
      }
    }
  });
}
