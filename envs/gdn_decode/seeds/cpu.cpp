#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

// A row as floats, divided by its norm if that is asked for.
template <typename T>
static void unpack(float* target, const T* row, int64_t count, bool norm) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    target[i] = fk::load(row + i);
    sum += target[i] * target[i];
  }
  if (!norm) return;
  const float factor = 1.f / std::sqrt(sum + 1e-6f);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) target[i] *= factor;
}

template <typename T>
static void run(const T* q, const T* k, const T* v, float* states, const float* rate, const T* a, const T* dt_bias, const T* b,
                float scale, T* output, bool norm, int64_t batch, int64_t heads, int64_t value_heads, int64_t keys, int64_t values) {
#pragma omp parallel
  {
    std::vector<float> query(keys), key(keys), delta(values), result(values);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < batch * value_heads; ++row) {
      const int64_t head = row % value_heads;
      const int64_t shared = row / value_heads * heads + head / (value_heads / heads);
      float* state = states + row * keys * values;
      unpack(query.data(), q + shared * keys, keys, norm);
      unpack(key.data(), k + shared * keys, keys, norm);
      const float raw = fk::load(a + row) + fk::load(dt_bias + head);
      const float step = raw > 20.f ? raw : std::log1p(std::exp(raw));
      const float decay = std::exp(-std::exp(rate[head]) * step);
      const float strength = 1.f / (1.f + std::exp(-fk::load(b + row)));
      std::fill(delta.begin(), delta.end(), 0.f);
      std::fill(result.begin(), result.end(), 0.f);
      for (int64_t i = 0; i < keys; ++i) {
        const float* held = state + i * values;
        const float factor = key[i] * decay;
#pragma omp simd
        for (int64_t e = 0; e < values; ++e) delta[e] += factor * held[e];
      }
#pragma omp simd
      for (int64_t e = 0; e < values; ++e) delta[e] = strength * (fk::load(v + row * values + e) - delta[e]);
      for (int64_t i = 0; i < keys; ++i) {
        float* held = state + i * values;
        const float own = key[i], ask = query[i];
#pragma omp simd
        for (int64_t e = 0; e < values; ++e) {
          held[e] = held[e] * decay + own * delta[e];
          result[e] += ask * held[e];
        }
      }
#pragma omp simd
      for (int64_t e = 0; e < values; ++e) fk::store(output + row * values + e, scale * result[e]);
    }
  }
}

void gated_delta_rule_decode(tvm::ffi::TensorView q, tvm::ffi::TensorView k, tvm::ffi::TensorView v, tvm::ffi::TensorView state,
                             tvm::ffi::TensorView A_log, tvm::ffi::TensorView a, tvm::ffi::TensorView dt_bias, tvm::ffi::TensorView b,
                             double scale, tvm::ffi::TensorView output, bool use_qk_l2norm) {
  fk::dispatch(output.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(q), fk::data<T>(k), fk::data<T>(v), fk::data<float>(state), fk::data<float>(A_log), fk::data<T>(a),
           fk::data<T>(dt_bias), fk::data<T>(b), float(scale), fk::data<T>(output), use_qk_l2norm, state.size(0), q.size(2),
           state.size(1), state.size(2), state.size(3));
  });
}
