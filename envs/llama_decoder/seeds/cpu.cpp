#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <limits>
#include <vector>

using View = tvm::ffi::TensorView;

void add_rms_norm(View out, View total, View input, View residual, View weight, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = out.size(1);
    std::vector<float> sum(width);
    for (int64_t t = 0; t < out.size(0); ++t) {
      const T *x = fk::data<T>(input) + t * width, *r = fk::data<T>(residual) + t * width, *w = fk::data<T>(weight);
      T *y = fk::data<T>(out) + t * width, *kept = fk::data<T>(total) + t * width;
      float squares = 0.f;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) {
        sum[i] = fk::load(x + i) + fk::load(r + i);
        squares += sum[i] * sum[i];
        fk::store(kept + i, sum[i]);
      }
      const float scale = 1.f / std::sqrt(squares / float(width) + float(epsilon));
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) fk::store(y + i, sum[i] * scale * fk::load(w + i));
    }
  });
}

void silu_and_mul(View out, View input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = out.size(1);
    for (int64_t t = 0; t < out.size(0); ++t) {
      const T* gate = fk::data<T>(input) + t * 2 * width;
      T* y = fk::data<T>(out) + t * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float g = fk::load(gate + i);
        fk::store(y + i, g / (1.f + std::exp(-g)) * fk::load(gate + width + i));
      }
    }
  });
}

template <typename T>
static void rotate(View heads, View positions, View cos_sin) {
  const int64_t half = heads.size(2) / 2;
  for (int64_t t = 0; t < heads.size(0); ++t) {
    const float* table = fk::data<float>(cos_sin) + fk::data<int32_t>(positions)[t] * (2 * half);
    for (int64_t h = 0; h < heads.size(1); ++h) {
      T* x = fk::data<T>(heads) + t * heads.stride(0) + h * heads.stride(1);
      for (int64_t i = 0; i < half; ++i) {
        const float a = fk::load(x + i), b = fk::load(x + half + i), c = table[i], s = table[half + i];
        fk::store(x + i, a * c - b * s);
        fk::store(x + half + i, b * c + a * s);
      }
    }
  }
}

void rope(View query, View key, View positions, View cos_sin) {
  fk::dispatch(query.dtype(), [&](auto tag) {
    rotate<decltype(tag)>(query, positions, cos_sin);
    rotate<decltype(tag)>(key, positions, cos_sin);
  });
}

// One head of a sequence: `length` cached entries that are `step` apart, and the new one.
template <typename T>
static void attend(T* out, const T* query, const T* key, const T* value, const T* keys, const T* values, int64_t length, int64_t step,
                   int64_t width, float scale) {
  std::vector<float> weight(length + 1), sum(width + 1, 0.f);  // the last sum is that of the weights
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j <= length; ++j) {
    const T* k = j < length ? keys + j * step : key;
    float dot = 0.f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < width; ++i) dot += fk::load(query + i) * fk::load(k + i);
    weight[j] = dot * scale;
    most = std::max(most, weight[j]);
  }
  for (int64_t j = 0; j <= length; ++j) {
    const T* v = j < length ? values + j * step : value;
    const float p = std::exp(weight[j] - most);
    sum[width] += p;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) sum[i] += p * fk::load(v + i);
  }
  for (int64_t i = 0; i < width; ++i) fk::store(out + i, sum[i] / sum[width]);
}

void cached_attention(View out, View query, View key, View value, View k_cache, View v_cache, View lengths, double scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t heads = query.size(1), width = query.size(2), room = k_cache.size(1), groups = k_cache.size(2);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < query.size(0); ++b)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t group = h / (heads / groups);
        const int64_t own = (b * groups + group) * width, first = (b * room * groups + group) * width;
        attend(fk::data<T>(out) + (b * heads + h) * width, fk::data<T>(query) + b * query.stride(0) + h * width,
               fk::data<T>(key) + own, fk::data<T>(value) + own, fk::data<T>(k_cache) + first, fk::data<T>(v_cache) + first,
               fk::data<int32_t>(lengths)[b], groups * width, width, float(scale));
      }
  });
}
