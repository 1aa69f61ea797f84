#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <limits>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int kHeads = 4, kTokens = 3;  // a register tile of scores: 12 sums, 3 keys and a query fill the 16 vector registers
constexpr int kBlock = 8;               // heads that a thread takes at once
constexpr int kChunk = 48;              // tokens between two corrections of the running maximum

static int64_t padded(int64_t count) { return (count + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes); }

// score[m][n] = dot(q[m], rows[n]) for a tile of heads and tokens, all `width` long.
static void dots(const float* q, const float* rows, int64_t width, float* score) {
  Vec sum[kHeads][kTokens] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    Vec y[kTokens];
    for (int n = 0; n < kTokens; ++n) y[n] = *reinterpret_cast<const Vec*>(rows + n * width + k);
    for (int m = 0; m < kHeads; ++m) {
      const Vec x = *reinterpret_cast<const Vec*>(q + m * width + k);
      for (int n = 0; n < kTokens; ++n) sum[m][n] += x * y[n];
    }
  }
  for (int m = 0; m < kHeads; ++m) {
    for (int n = 0; n < kTokens; ++n) {
      float total = 0.f;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[m][n][lane];
      score[m * kChunk + n] = total;
    }
  }
}

// out[m] = out[m] * shrink[m] + sum over n of weight[m][n] * rows[n] for a tile of heads and two vectors of channels.
static void accumulate(const float* weight, const float* shrink, const float* rows, int64_t count, int64_t width, float* out) {
  Vec left[kHeads], right[kHeads];
  for (int m = 0; m < kHeads; ++m) {
    left[m] = *reinterpret_cast<const Vec*>(out + m * width) * shrink[m];
    right[m] = *reinterpret_cast<const Vec*>(out + m * width + kLanes) * shrink[m];
  }
  for (int64_t n = 0; n < count; ++n) {
    const Vec x = *reinterpret_cast<const Vec*>(rows + n * width), y = *reinterpret_cast<const Vec*>(rows + n * width + kLanes);
    for (int m = 0; m < kHeads; ++m) {
      left[m] += weight[m * kChunk + n] * x;
      right[m] += weight[m * kChunk + n] * y;
    }
  }
  for (int m = 0; m < kHeads; ++m) {
    *reinterpret_cast<Vec*>(out + m * width) = left[m];
    *reinterpret_cast<Vec*>(out + m * width + kLanes) = right[m];
  }
}

template <typename T>
static void run(T* out, float* lse, const T* q_nope, const T* q_pe, const T* cache, const int32_t* indptr, const int32_t* indices,
                const int32_t* last_page, float scale, int64_t batch, int64_t heads, int64_t latent, int64_t rotated, int64_t page) {
  const int64_t row = latent + rotated, width = padded(row);
#pragma omp parallel
  {
    // What lies past the channels of a row stays zero; so do heads past the last.
    std::vector<float> q(kBlock * width), rows(kChunk * width), sum(kBlock * width), score(kBlock * kChunk);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t block = 0; block < heads; block += kBlock) {
        const int32_t* pages = indices + indptr[b];
        const int64_t length = int64_t(indptr[b + 1] - indptr[b] - 1) * page + last_page[b];
        const int64_t head = b * heads + block, count = std::min<int64_t>(kBlock, heads - block);
        float top[kBlock], total[kBlock] = {}, shrink[kBlock] = {};
        std::fill(top, top + kBlock, -std::numeric_limits<float>::max());
        std::fill(q.begin(), q.end(), 0.f);
        std::fill(sum.begin(), sum.end(), 0.f);
        for (int64_t m = 0; m < count; ++m) {
          for (int64_t i = 0; i < latent; ++i) q[m * width + i] = fk::load(q_nope + (head + m) * latent + i) * scale;
          for (int64_t i = 0; i < rotated; ++i) q[m * width + latent + i] = fk::load(q_pe + (head + m) * rotated + i) * scale;
        }
        for (int64_t first = 0; first < length; first += kChunk) {
          const int64_t tokens = std::min<int64_t>(kChunk, length - first);
          for (int64_t n = 0; n < tokens; ++n) {
            const int64_t s = first + n;
            const T* source = cache + (int64_t(pages[s / page]) * page + s % page) * row;
#pragma omp simd
            for (int64_t i = 0; i < row; ++i) rows[n * width + i] = fk::load(source + i);
          }
          for (int64_t m = 0; m < count; m += kHeads) {
            for (int64_t n = 0; n < tokens; n += kTokens) dots(&q[m * width], &rows[n * width], width, &score[m * kChunk + n]);
          }
          for (int64_t m = 0; m < count; ++m) {
            float* x = &score[m * kChunk];
            float highest = top[m], added = 0.f;
            for (int64_t n = 0; n < tokens; ++n) highest = std::max(highest, x[n]);
            shrink[m] = std::exp(top[m] - highest);
            for (int64_t n = 0; n < tokens; ++n) added += x[n] = std::exp(x[n] - highest);
            total[m] = total[m] * shrink[m] + added;
            top[m] = highest;
          }
          for (int64_t m = 0; m < count; m += kHeads) {
            for (int64_t i = 0; i < latent; i += 2 * kLanes) {
              accumulate(&score[m * kChunk], shrink + m, &rows[i], tokens, width, &sum[m * width + i]);
            }
          }
        }
        for (int64_t m = 0; m < count; ++m) {
          lse[head + m] = (top[m] + std::log(total[m])) * 1.4426950408889634f;
          for (int64_t i = 0; i < latent; ++i) fk::store(out + (head + m) * latent + i, sum[m * width + i] / total[m]);
        }
      }
    }
  }
}

void mla_decode(tvm::ffi::TensorView out, tvm::ffi::TensorView lse, tvm::ffi::TensorView q_nope, tvm::ffi::TensorView q_pe,
                tvm::ffi::TensorView kv_cache, tvm::ffi::TensorView kv_indptr, tvm::ffi::TensorView kv_indices,
                tvm::ffi::TensorView last_page_len, double sm_scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<float>(lse), fk::data<T>(q_nope), fk::data<T>(q_pe), fk::data<T>(kv_cache),
           fk::data<int32_t>(kv_indptr), fk::data<int32_t>(kv_indices), fk::data<int32_t>(last_page_len), float(sm_scale),
           q_nope.size(0), q_nope.size(1), q_nope.size(2), q_pe.size(2), kv_cache.size(1));
  });
}
