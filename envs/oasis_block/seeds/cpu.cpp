#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <limits>
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

void gelu_tanh(View out, View input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* u = fk::data<T>(input);
    T* y = fk::data<T>(out);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < out.size(0) * out.size(1); ++i) {
      const float g = fk::load(u + i);
      // g / 2 * (1 + tanh(z)) is g / (1 + exp(-2 z)).
      fk::store(y + i, g / (1.f + std::exp(-1.5957691216f * (g + 0.044715f * g * g * g))));
    }
  });
}

template <typename T>
static void turn(T* x, int64_t heads, int64_t half, const float* c, const float* z) {
  for (int64_t h = 0; h < heads; ++h, x += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const float left = fk::load(x + 2 * i), right = fk::load(x + 2 * i + 1);
      fk::store(x + 2 * i, left * c[i] - right * z[i]);
      fk::store(x + 2 * i + 1, right * c[i] + left * z[i]);
    }
  }
}

void axial_rope(View query, View key, View cos_sin, bool temporal) {
  fk::dispatch(query.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t frames = query.size(1), tokens = query.size(2), heads = query.size(3), half = query.size(4) / 2;
    const int64_t step = query.stride(2);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < query.size(0) * frames * tokens; ++t) {
      const float* c = fk::data<float>(cos_sin) + (temporal ? t / tokens % frames : t % tokens) * 2 * half;
      turn(fk::data<T>(query) + t * step, heads, half, c, c + half);
      turn(fk::data<T>(key) + t * step, heads, half, c, c + half);
    }
  });
}

// One head of a sequence of `count` tokens; what it works with lies in buffers that are used again.
struct Head {
  int64_t count, width;
  std::vector<float> keys, values, query, scores, sum;

  Head(int64_t count, int64_t width)
      : count(count), width(width), keys(count * width), values(count * width), query(width), scores(count), sum(width) {}

  template <typename T>
  void run(T* out, int64_t out_step, const T* q, const T* k, const T* v, int64_t step, bool causal) {
    const float scale = 1.f / std::sqrt(float(width));
    for (int64_t j = 0; j < count; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        keys[j * width + i] = fk::load(k + j * step + i);
        values[j * width + i] = fk::load(v + j * step + i);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      const int64_t seen = causal ? t + 1 : count;
      for (int64_t i = 0; i < width; ++i) query[i] = fk::load(q + t * step + i) * scale;
      float most = -std::numeric_limits<float>::infinity(), total = 0.f;
      for (int64_t j = 0; j < seen; ++j) {
        float score = 0.f;
#pragma omp simd reduction(+ : score)
        for (int64_t i = 0; i < width; ++i) score += query[i] * keys[j * width + i];
        scores[j] = score;
        most = std::max(most, score);
      }
      std::fill(sum.begin(), sum.end(), 0.f);
      for (int64_t j = 0; j < seen; ++j) {
        const float odds = std::exp(scores[j] - most);
        total += odds;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) sum[i] += odds * values[j * width + i];
      }
      for (int64_t i = 0; i < width; ++i) fk::store(out + t * out_step + i, sum[i] / total);
    }
  }
};

void axial_attention(View out, View query, View key, View value, bool temporal) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t clips = out.size(0), frames = out.size(1), tokens = out.size(2), heads = out.size(3), width = out.size(4);
    const int64_t count = temporal ? frames : tokens, others = temporal ? tokens : frames;
    // From a token of a sequence to the next, and from a sequence to the next, in tokens.
    const int64_t step = temporal ? tokens : 1, apart = temporal ? 1 : tokens;
    const int64_t far = query.stride(2), near = heads * width;
#pragma omp parallel
    {
      Head head(count, width);
#pragma omp for collapse(3) schedule(static)
      for (int64_t b = 0; b < clips; ++b)
        for (int64_t n = 0; n < others; ++n)
          for (int64_t h = 0; h < heads; ++h) {
            const int64_t first = b * frames * tokens + n * apart, from = first * far + h * width;
            head.run(fk::data<T>(out) + first * near + h * width, step * near, fk::data<T>(query) + from, fk::data<T>(key) + from,
                     fk::data<T>(value) + from, step * far, temporal);
          }
    }
  });
}
