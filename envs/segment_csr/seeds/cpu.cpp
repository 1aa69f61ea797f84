#include <algorithm>
#include <limits>
#include <vector>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* src, const int64_t* indptr, int64_t segments, int64_t width, int64_t reduce) {
#pragma omp parallel for schedule(dynamic, segments < 256 ? 1 : 16)
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t first = indptr[s], last = indptr[s + 1];
    std::vector<float> sum(width, reduce == 2 && last > first ? -std::numeric_limits<float>::infinity() : 0.f);
    for (int64_t p = first; p < last; ++p) {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const float value = fk::load(src + p * width + c);
        sum[c] = reduce == 2 ? std::max(sum[c], value) : sum[c] + value;
      }
    }
    const bool mean = reduce == 1 && last > first;
    for (int64_t c = 0; c < width; ++c) fk::store(out + s * width + c, mean ? sum[c] / float(last - first) : sum[c]);
  }
}

void segment_csr(tvm::ffi::TensorView out, tvm::ffi::TensorView src, tvm::ffi::TensorView indptr, int64_t reduce) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(src), fk::data<int64_t>(indptr), out.size(0), out.size(1), reduce);
  });
}
