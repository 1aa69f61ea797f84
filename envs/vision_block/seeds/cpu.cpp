#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

using View = tvm::ffi::TensorView;

// total = input + residual, out = (total - mean) / deviation * weight + bias.
void residual_layer_norm(View out, View total, View input, View residual, View weight, View bias, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = out.size(0), width = out.size(1);
    const T *w = fk::data<T>(weight), *b = fk::data<T>(bias);
#pragma omp parallel
    {
      std::vector<float> summed(width);
      float* s = summed.data();
#pragma omp for schedule(static)
      for (int64_t t = 0; t < rows; ++t) {
        const T *x = fk::data<T>(input) + t * width, *r = fk::data<T>(residual) + t * width;
        float sum = 0.f, squares = 0.f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; ++i) {
          s[i] = fk::load(x + i) + fk::load(r + i);
          sum += s[i];
        }
        const float mean = sum / float(width);
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; ++i) squares += (s[i] - mean) * (s[i] - mean);
        const float scale = 1.f / std::sqrt(squares / float(width) + float(epsilon));
        T *y = fk::data<T>(out) + t * width, *kept = fk::data<T>(total) + t * width;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
          fk::store(kept + i, s[i]);
          fk::store(y + i, (s[i] - mean) * scale * fk::load(w + i) + fk::load(b + i));
        }
      }
    }
  });
}

void gelu_tanh(View out, View input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = out.size(0), width = out.size(1);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const T* x = fk::data<T>(input) + t * width;
      T* y = fk::data<T>(out) + t * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float g = fk::load(x + i);
        // g / 2 * (1 + tanh(z)) is g / (1 + exp(-2 z)).
        fk::store(y + i, g / (1.f + std::exp(-1.5957691216f * (g + 0.044715f * g * g * g))));
      }
    }
  });
}

template <typename T>
static void turn(View heads, const float* cos, const float* sin) {
  const int64_t tokens = heads.size(0), half = heads.size(2) / 2;
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads.size(1); ++h) {
      T* x = fk::data<T>(heads) + t * heads.stride(0) + h * heads.stride(1);
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = fk::load(x + i), b = fk::load(x + half + i), c = cos[t * half + i], s = sin[t * half + i];
        fk::store(x + i, a * c - b * s);
        fk::store(x + half + i, b * c + a * s);
      }
    }
  }
}

void rotate(View query, View key, View cos, View sin) {
  fk::dispatch(query.dtype(), [&](auto tag) {
    turn<decltype(tag)>(query, fk::data<float>(cos), fk::data<float>(sin));
    turn<decltype(tag)>(key, fk::data<float>(cos), fk::data<float>(sin));
  });
}

// One head of one image of `count` tokens; what it works with lies in buffers that are used again.
struct Head {
  int64_t width, stride, count;
  std::vector<float> keys, values, scores, sum;

  template <typename T>
  void run(T* out, int64_t out_stride, const T* query, const T* key, const T* value) {
    keys.resize(width * count), values.resize(count * width), scores.resize(count), sum.resize(width);
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < width; ++i) keys[i * count + j] = fk::load(key + j * stride + i);  // transposed
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) values[j * width + i] = fk::load(value + j * stride + i);
    }
    const float scale = 1.f / std::sqrt(float(width));
    for (int64_t t = 0; t < count; ++t) {
      std::fill(scores.begin(), scores.end(), 0.f);
      std::fill(sum.begin(), sum.end(), 0.f);
      for (int64_t i = 0; i < width; ++i) {
        const float q = fk::load(query + t * stride + i) * scale;
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) scores[j] += q * keys[i * count + j];
      }
      float most = scores[0], total = 0.f;
#pragma omp simd reduction(max : most)
      for (int64_t j = 0; j < count; ++j) most = std::max(most, scores[j]);
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < count; ++j) {
        scores[j] = std::exp(scores[j] - most);
        total += scores[j];
      }
      for (int64_t j = 0; j < count; ++j) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) sum[i] += scores[j] * values[j * width + i];
      }
      for (int64_t i = 0; i < width; ++i) fk::store(out + t * out_stride + i, sum[i] / total);
    }
  }
};

void varlen_attention(View out, View query, View key, View value, View cu_seqlens, int64_t max_seqlen) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t images = cu_seqlens.size(0) - 1, heads = out.size(1), width = out.size(2);
    const int32_t* starts = fk::data<int32_t>(cu_seqlens);
#pragma omp parallel
    {
      Head head{width, query.stride(0)};  // query, key and value are parts of the same rows
#pragma omp for collapse(2) schedule(dynamic)
      for (int64_t s = 0; s < images; ++s)
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t from = starts[s] * head.stride + h * width;
          head.count = starts[s + 1] - starts[s];
          head.run(fk::data<T>(out) + (starts[s] * heads + h) * width, heads * width, fk::data<T>(query) + from,
                   fk::data<T>(key) + from, fk::data<T>(value) + from);
        }
    }
  });
}
