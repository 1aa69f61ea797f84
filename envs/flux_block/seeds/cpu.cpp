#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

using View = tvm::ffi::TensorView;

void layer_norm_modulate(View out, View input, View shift, View scale, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = out.size(0) * out.size(1), tokens = out.size(1), width = out.size(2);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const T* x = fk::data<T>(input) + t * width;
      const T* add = fk::data<T>(shift) + t / tokens * shift.stride(0);
      const T* gain = fk::data<T>(scale) + t / tokens * scale.stride(0);
      T* y = fk::data<T>(out) + t * width;
      float sum = 0.f, squares = 0.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < width; ++i) sum += fk::load(x + i);
      const float mean = sum / float(width);
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) squares += (fk::load(x + i) - mean) * (fk::load(x + i) - mean);
      const float inverse = 1.f / std::sqrt(squares / float(width) + float(epsilon));
#pragma omp simd
      for (int64_t i = 0; i < width; ++i)
        fk::store(y + i, (fk::load(x + i) - mean) * inverse * (1.f + fk::load(gain + i)) + fk::load(add + i));
    }
  });
}

void gated_residual(View out, View residual, View branch, View gate) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = out.size(0) * out.size(1), tokens = out.size(1), width = out.size(2);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const T *x = fk::data<T>(residual) + t * width, *added = fk::data<T>(branch) + t * width;
      const T* g = fk::data<T>(gate) + t / tokens * gate.stride(0);
      T* y = fk::data<T>(out) + t * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) fk::store(y + i, fk::load(x + i) + fk::load(g + i) * fk::load(added + i));
    }
  });
}

void gelu_tanh_concat(View out, View mixed, View inner) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = mixed.size(1), channels = inner.size(1);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < out.size(0); ++t) {
      T* y = fk::data<T>(out) + t * (width + channels);
      std::copy_n(fk::data<T>(mixed) + t * width, width, y);
      const T* u = fk::data<T>(inner) + t * inner.stride(0);
#pragma omp simd
      for (int64_t i = 0; i < channels; ++i) {
        const float g = fk::load(u + i);
        // g / 2 * (1 + tanh(z)) is g / (1 + exp(-2 z)).
        fk::store(y + width + i, g / (1.f + std::exp(-1.5957691216f * (g + 0.044715f * g * g * g))));
      }
    }
  });
}

template <typename T>
static void norm_turn(View heads, View weight, const float* cos_sin, float epsilon) {
  const int64_t tokens = heads.size(1), width = heads.size(3), half = width / 2;
  const T* w = fk::data<T>(weight);
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < heads.size(0) * tokens; ++t) {
    T* x = fk::data<T>(heads) + t / tokens * heads.stride(0) + t % tokens * heads.stride(1);
    const float* table = cos_sin + t % tokens * width;
    for (int64_t h = 0; h < heads.size(2); ++h, x += width) {
      float sum = 0.f;
      for (int64_t i = 0; i < width; ++i) sum += fk::load(x + i) * fk::load(x + i);
      const float scale = 1.f / std::sqrt(sum / float(width) + epsilon);
      for (int64_t i = 0; i < half; ++i) {
        const float left = fk::load(x + 2 * i) * scale * fk::load(w + 2 * i);
        const float right = fk::load(x + 2 * i + 1) * scale * fk::load(w + 2 * i + 1);
        fk::store(x + 2 * i, left * table[i] - right * table[half + i]);
        fk::store(x + 2 * i + 1, right * table[i] + left * table[half + i]);
      }
    }
  }
}

void qk_norm_rope(View query, View key, View norm_q, View norm_k, View cos_sin, double epsilon) {
  fk::dispatch(query.dtype(), [&](auto tag) {
    norm_turn<decltype(tag)>(query, norm_q, fk::data<float>(cos_sin), float(epsilon));
    norm_turn<decltype(tag)>(key, norm_k, fk::data<float>(cos_sin), float(epsilon));
  });
}

// One head of `count` tokens of a sample; what it works with lies in buffers that are used again.
struct Head {
  int64_t count, width;
  std::vector<float> keys, values, scores, sum;

  Head(int64_t count, int64_t width)
      : count(count), width(width), keys(width * count), values(count * width), scores(count), sum(width) {}

  template <typename T>
  void run(T* out, int64_t out_step, const T* query, const T* key, const T* value, int64_t step, float scale) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < width; ++i) keys[i * count + j] = fk::load(key + j * step + i);  // transposed
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) values[j * width + i] = fk::load(value + j * step + i);
    }
    for (int64_t t = 0; t < count; ++t) {
      std::fill(scores.begin(), scores.end(), 0.f);
      std::fill(sum.begin(), sum.end(), 0.f);
      for (int64_t i = 0; i < width; ++i) {
        const float q = fk::load(query + t * step + i) * scale;
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) scores[j] += q * keys[i * count + j];
      }
      float most = scores[0], total = 0.f;
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
      for (int64_t i = 0; i < width; ++i) fk::store(out + t * out_step + i, sum[i] / total);
    }
  }
};

void attention(View out, View query, View key, View value) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = out.size(0), heads = out.size(2), width = out.size(3);
#pragma omp parallel
    {
      Head head(out.size(1), width);
#pragma omp for collapse(2) schedule(static)
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t from = b * query.stride(0) + h * width;
          head.run(fk::data<T>(out) + b * out.stride(0) + h * width, heads * width, fk::data<T>(query) + from, fk::data<T>(key) + from,
                   fk::data<T>(value) + from, query.stride(1), 1.f / std::sqrt(float(width)));
        }
    }
  });
}
