#include <algorithm>
#include <cmath>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* prefix, const float* prefix_lse, const T* suffix, const float* suffix_lse, float* lse,
                int64_t tokens, int64_t heads, int64_t width) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const float a = prefix_lse[h * tokens + t], b = suffix_lse[h * tokens + t];
      const float top = std::max(a, b), left = std::exp(a - top), right = std::exp(b - top), sum = left + right;
      const int64_t row = (t * heads + h) * width;
#pragma omp simd
      for (int64_t e = row; e < row + width; ++e) {
        fk::store(out + e, (left * fk::load(prefix + e) + right * fk::load(suffix + e)) / sum);
      }
      lse[h * tokens + t] = top + std::log(sum);
    }
  }
}

void merge_attn_states(tvm::ffi::TensorView output, tvm::ffi::TensorView prefix_output, tvm::ffi::TensorView prefix_lse,
                       tvm::ffi::TensorView suffix_output, tvm::ffi::TensorView suffix_lse, tvm::ffi::TensorView output_lse) {
  fk::dispatch(output.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(output), fk::data<T>(prefix_output), fk::data<float>(prefix_lse), fk::data<T>(suffix_output),
           fk::data<float>(suffix_lse), fk::data<float>(output_lse), output.size(0), output.size(1), output.size(2));
  });
}
