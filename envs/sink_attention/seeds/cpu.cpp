#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int kTokens = 6;  // tokens in a register tile: 2 heads x 6 tokens fill the 16 vector registers
constexpr int kChunk = 48;  // tokens between two corrections of the running maximum

// out[m][n] = dot(q + m * d, keys[n]): R x kTokens dot products that share their loads.
template <int R>
static void dots(const float* q, const float* const* keys, int64_t d, float out[][kChunk]) {
  Vec sum[R][kTokens] = {};
  for (int64_t k = 0; k < d; k += kLanes) {
    Vec y[kTokens];
    for (int n = 0; n < kTokens; ++n) y[n] = *reinterpret_cast<const Vec*>(keys[n] + k);
    for (int m = 0; m < R; ++m) {
      const Vec x = *reinterpret_cast<const Vec*>(q + m * d + k);
      for (int n = 0; n < kTokens; ++n) sum[m][n] += x * y[n];
    }
  }
  for (int m = 0; m < R; ++m) {
    for (int n = 0; n < kTokens; ++n) {
      float total = 0.f;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[m][n][lane];
      out[m][n] = total;
    }
  }
}

// Attention of the query heads that share one key-value head of one sequence. Queries and keys are padded with zeros to whole vectors.
struct State {
  int64_t group, d, padded;
  std::vector<float> q, out, keys, scores, top, total;

  State(int64_t group, int64_t d)
      : group(group), d(d), padded((d + kLanes - 1) / kLanes * kLanes), q(group * padded), out(group * d), keys(kTokens * padded),
        scores(group * kChunk), top(group), total(group) {}

  // A sink is a key that was seen first, whose value is zero.
  void reset(const float* sinks, float log2e) {
    std::fill(out.begin(), out.end(), 0.f);
    std::fill(total.begin(), total.end(), 1.f);
    for (int64_t m = 0; m < group; ++m) top[m] = sinks[m] * log2e;
  }

  // Adds `count` tokens whose rows are given; their scores are in units of log2.
  template <typename T>
  void add(const T* const* key_rows, const T* const* value_rows, int64_t count) {
    float(*score)[kChunk] = reinterpret_cast<float(*)[kChunk]>(scores.data());
    for (int64_t first = 0; first < count; first += kTokens) {
      const float* rows[kTokens];
      for (int64_t n = 0; n < kTokens; ++n) {
        const T* key = key_rows[std::min(first + n, count - 1)];
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) keys[n * padded + i] = fk::load(key + i);
        rows[n] = keys.data() + n * padded;
      }
      for (int64_t m = 0; m < group; m += 2) {
        float(*target)[kChunk] = reinterpret_cast<float(*)[kChunk]>(score[m] + first);
        if (group - m >= 2) {
          dots<2>(q.data() + m * padded, rows, padded, target);
        } else {
          dots<1>(q.data() + m * padded, rows, padded, target);
        }
      }
    }
    for (int64_t m = 0; m < group; ++m) {
      float highest = top[m], sum = 0.f;
      for (int64_t n = 0; n < count; ++n) highest = std::max(highest, score[m][n]);
      const float shrink = std::exp2(top[m] - highest);
      for (int64_t n = 0; n < count; ++n) sum += score[m][n] = std::exp2(score[m][n] - highest);
      total[m] = total[m] * shrink + sum;
      top[m] = highest;
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) out[m * d + i] *= shrink;
    }
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t m = 0; m < group; ++m) {
        float* target = out.data() + m * d;
        const float weight = score[m][n];
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) target[i] += weight * fk::load(value_rows[n] + i);
      }
    }
  }
};

template <typename T>
static void run(T* out, const T* q, const T* k_cache, const T* v_cache, const float* sinks, const int32_t* indptr, const int32_t* indices,
                const int32_t* last_page, int64_t window_left, float scale, int64_t batch, int64_t heads, int64_t kv_heads, int64_t d,
                int64_t page) {
  const int64_t group = heads / kv_heads;
  const float log2e = 1.4426950408889634f;
#pragma omp parallel
  {
    State state(group, d);
    const T *keys[kChunk], *values[kChunk];
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < kv_heads; ++h) {
        const int32_t* pages = indices + indptr[b];
        const int64_t length = int64_t(indptr[b + 1] - indptr[b] - 1) * page + last_page[b];
        const int64_t begin = window_left >= 0 ? std::max<int64_t>(0, length - 1 - window_left) : 0;
        const int64_t head = b * heads + h * group;
        state.reset(sinks + h * group, log2e);
        for (int64_t m = 0; m < group; ++m)
          for (int64_t i = 0; i < d; ++i) state.q[m * state.padded + i] = fk::load(q + (head + m) * d + i) * scale * log2e;
        for (int64_t first = begin; first < length; first += kChunk) {
          const int64_t count = std::min<int64_t>(kChunk, length - first);
          for (int64_t n = 0; n < count; ++n) {
            const int64_t token = pages[(first + n) / page] * page + (first + n) % page;
            keys[n] = k_cache + (token * kv_heads + h) * d;
            values[n] = v_cache + (token * kv_heads + h) * d;
          }
          state.add(keys, values, count);
        }
        for (int64_t m = 0; m < group; ++m)
          for (int64_t i = 0; i < d; ++i) fk::store(out + (head + m) * d + i, state.out[m * d + i] / state.total[m]);
      }
    }
  }
}

void sink_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView q, tvm::ffi::TensorView k_cache, tvm::ffi::TensorView v_cache,
                    tvm::ffi::TensorView sinks, tvm::ffi::TensorView kv_indptr, tvm::ffi::TensorView kv_indices,
                    tvm::ffi::TensorView last_page_len, int64_t window_left, double sm_scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(q), fk::data<T>(k_cache), fk::data<T>(v_cache), fk::data<float>(sinks),
           fk::data<int32_t>(kv_indptr), fk::data<int32_t>(kv_indices), fk::data<int32_t>(last_page_len), window_left, float(sm_scale),
           q.size(0), q.size(1), k_cache.size(2), q.size(2), k_cache.size(1));
  });
}
