#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* dense, const T* sparse, int64_t batch, int64_t count, int64_t width) {
  const int64_t columns = width + (count + 1) * count / 2;
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < batch; ++b) {
    const T* own = dense + b * width;
    const T* others = sparse + b * count * width;
    T* y = out + b * columns;
    for (int64_t e = 0; e < width; ++e) *y++ = own[e];
    for (int64_t i = 0; i < count; ++i) {
      const T* left = i ? others + (i - 1) * width : own;
      for (int64_t j = i; j < count; ++j) {
        float sum = 0.f;
#pragma omp simd reduction(+ : sum)
        for (int64_t e = 0; e < width; ++e) sum += fk::load(left + e) * fk::load(others + j * width + e);
        fk::store(y++, sum);
      }
    }
  }
}

void dlrm_interaction(tvm::ffi::TensorView out, tvm::ffi::TensorView dense, tvm::ffi::TensorView sparse) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(dense), fk::data<T>(sparse), sparse.size(0), sparse.size(1), sparse.size(2));
  });
}
