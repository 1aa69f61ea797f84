#include <algorithm>
#include <cmath>
#include <fastkernels.h>

constexpr int64_t kBlock = 1024;  // channels at a time: their windows and filters stay in the first cache

// W is the number of taps, or 0 where it is not known before the call.
template <typename T, int W>
static void run(T* x, T* states, const T* weight, const T* bias, const int32_t* indices, int64_t batch, int64_t stride, int64_t dim,
                int64_t given, bool silu) {
  const int64_t taps = W ? W : given;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t first = 0; first < dim; first += kBlock) {
      if (indices[b] < 0) continue;
      T* row = x + b * stride;
      T* past = states + int64_t(indices[b]) * dim * (taps - 1);
      const int64_t end = std::min(first + kBlock, dim);
      float result[kBlock];
      for (int64_t d = first; d < end; ++d) {
        T* window = past + d * (taps - 1);
        const T newest = row[d];
        float sum = fk::load(bias + d) + fk::load(weight + d * taps + taps - 1) * fk::load(&newest);
        for (int64_t j = 0; j < taps - 1; ++j) sum += fk::load(weight + d * taps + j) * fk::load(window + j);
        for (int64_t j = 0; j < taps - 2; ++j) window[j] = window[j + 1];
        window[taps - 2] = newest;
        result[d - first] = sum;
      }
#pragma omp simd
      for (int64_t d = first; d < end; ++d) {
        const float y = result[d - first];
        fk::store(row + d, silu ? y / (1.f + std::exp(-y)) : y);
      }
    }
  }
}

void causal_conv1d_update(tvm::ffi::TensorView x, tvm::ffi::TensorView conv_state, tvm::ffi::TensorView weight,
                          tvm::ffi::TensorView bias, bool activation, tvm::ffi::TensorView conv_state_indices) {
  fk::dispatch(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t taps = weight.size(1);
    (taps == 4 ? run<T, 4> : run<T, 0>)(fk::data<T>(x), fk::data<T>(conv_state), fk::data<T>(weight), fk::data<T>(bias),
                                        fk::data<int32_t>(conv_state_indices), x.size(0), x.stride(0), x.size(1), taps, activation);
  });
}
