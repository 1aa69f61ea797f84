#include <cmath>
#include <fastkernels.h>

// One head: normalised and rotated. The style is a template argument so that the loop vectorises.
template <bool Neox, typename T>
static void turn(T* x, const T* weight, const float* cosine, const float* sine, int64_t width, int64_t rot, float eps) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < width; ++j) sum += fk::load(x + j) * fk::load(x + j);
  const float scale = 1.f / std::sqrt(sum / float(width) + eps);
  const int64_t half = rot / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const int64_t a = Neox ? i : 2 * i, b = Neox ? i + half : 2 * i + 1;
    const float u = fk::load(x + a) * scale * fk::load(weight + a), v = fk::load(x + b) * scale * fk::load(weight + b);
    fk::store(x + a, u * cosine[i] - v * sine[i]);
    fk::store(x + b, v * cosine[i] + u * sine[i]);
  }
#pragma omp simd
  for (int64_t j = rot; j < width; ++j) fk::store(x + j, fk::load(x + j) * scale * fk::load(weight + j));
}

template <bool Neox, typename T>
static void run(T* qkv, const T* q_weight, const T* k_weight, const float* cache, const int64_t* positions, int64_t tokens, int64_t row,
                int64_t queries, int64_t keys, int64_t width, int64_t rot, float eps) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; ++t) {
    const float* cosine = cache + positions[t] * rot;
    for (int64_t h = 0; h < queries + keys; ++h) {
      turn<Neox>(qkv + t * row + h * width, h < queries ? q_weight : k_weight, cosine, cosine + rot / 2, width, rot, eps);
    }
  }
}

void fused_qk_norm_rope(tvm::ffi::TensorView qkv, int64_t num_heads_q, int64_t num_heads_k, int64_t num_heads_v, int64_t head_dim,
                        double eps, tvm::ffi::TensorView q_weight, tvm::ffi::TensorView k_weight, tvm::ffi::TensorView cos_sin_cache,
                        bool is_neox, tvm::ffi::TensorView position_ids) {
  fk::dispatch(qkv.dtype(), [&](auto tag) {
    using T = decltype(tag);
    auto* body = is_neox ? run<true, T> : run<false, T>;
    body(fk::data<T>(qkv), fk::data<T>(q_weight), fk::data<T>(k_weight), fk::data<float>(cos_sin_cache), fk::data<int64_t>(position_ids),
         qkv.size(0), qkv.size(1), num_heads_q, num_heads_k, head_dim, cos_sin_cache.size(1), float(eps));
  });
}
