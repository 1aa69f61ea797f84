#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

template <typename T>
static void run(float* weights, int32_t* ids, int32_t* places, const T* logits, int64_t tokens, int64_t experts, int64_t top_k,
                bool renormalize) {
#pragma omp parallel
  {
    std::vector<float> row(experts);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
      float* w = weights + t * top_k;
      int32_t* chosen = ids + t * top_k;
#pragma omp simd
      for (int64_t e = 0; e < experts; ++e) row[e] = fk::load(logits + t * experts + e);
      int64_t held = 0;  // the best so far, in descending order
      for (int64_t e = 0; e < experts; ++e) {
        if (held == top_k && row[e] <= w[held - 1]) continue;  // of equal ones the first stays
        int64_t j = held < top_k ? held++ : held - 1;
        for (; j > 0 && row[e] > w[j - 1]; --j) {
          w[j] = w[j - 1];
          chosen[j] = chosen[j - 1];
        }
        w[j] = row[e];
        chosen[j] = int32_t(e);
      }
      const float top = w[0];
      float total = 0.f;
      if (renormalize) {
        for (int64_t j = 0; j < top_k; ++j) total += std::exp(w[j] - top);
      } else {
#pragma omp simd reduction(+ : total)
        for (int64_t e = 0; e < experts; ++e) total += std::exp(row[e] - top);
      }
      for (int64_t j = 0; j < top_k; ++j) {
        w[j] = std::exp(w[j] - top) / total;
        places[t * top_k + j] = int32_t(j * tokens + t);
      }
    }
  }
}

void topk_softmax(tvm::ffi::TensorView topk_weights, tvm::ffi::TensorView topk_ids, tvm::ffi::TensorView token_expert_indices,
                  tvm::ffi::TensorView gating_output, int64_t topk, bool renormalize) {
  fk::dispatch(gating_output.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<float>(topk_weights), fk::data<int32_t>(topk_ids), fk::data<int32_t>(token_expert_indices),
           fk::data<T>(gating_output), gating_output.size(0), gating_output.size(1), topk, renormalize);
  });
}
