#include <fastkernels.h>

// One rotation of all heads of a token; the style is a template argument so that both inner loops vectorise.
template <bool Neox, typename T>
static void rotate(T* row, const float* cosine, const float* sine, int64_t width, int64_t head_size) {
  const int64_t half = head_size / 2;
  for (int64_t start = 0; start < width; start += head_size) {
    T* x = row + start;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const int64_t a = Neox ? i : 2 * i, b = Neox ? i + half : 2 * i + 1;
      const float u = fk::load(x + a), v = fk::load(x + b);
      fk::store(x + a, u * cosine[i] - v * sine[i]);
      fk::store(x + b, v * cosine[i] + u * sine[i]);
    }
  }
}

template <bool Neox, typename T>
static void run(const int64_t* positions, tvm::ffi::TensorView query, tvm::ffi::TensorView key, int64_t head_size, const float* cache) {
  const int64_t tokens = query.size(0), query_width = query.size(1), key_width = key.size(1);
  const int64_t query_stride = query.stride(0), key_stride = key.stride(0);
  T* q = fk::data<T>(query);
  T* k = fk::data<T>(key);
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; ++t) {
    const float* cosine = cache + positions[t] * head_size;
    const float* sine = cosine + head_size / 2;
    rotate<Neox>(q + t * query_stride, cosine, sine, query_width, head_size);
    rotate<Neox>(k + t * key_stride, cosine, sine, key_width, head_size);
  }
}

void rope(tvm::ffi::TensorView positions, tvm::ffi::TensorView query, tvm::ffi::TensorView key, int64_t head_size,
          tvm::ffi::TensorView cos_sin_cache, bool is_neox) {
  fk::dispatch(query.dtype(), [&](auto tag) {
    using T = decltype(tag);
    auto* body = is_neox ? run<true, T> : run<false, T>;
    body(fk::data<int64_t>(positions), query, key, head_size, fk::data<float>(cos_sin_cache));
  });
}
