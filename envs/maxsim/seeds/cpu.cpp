#include <algorithm>
#include <fastkernels.h>
#include <limits>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int kRows = 4;              // document tokens in a register tile
constexpr int kColumns = 2 * kLanes;  // query tokens in a register tile

// best[t] = max(best[t], dot(tokens[r], query t)) for R document tokens r and the query tokens t of a tile
template <int R>
static void tile(const float* tokens, const float* query, int64_t width, int64_t columns, float* best) {
  Vec sum[R][2] = {};
  for (int64_t e = 0; e < width; ++e) {
    const Vec* q = reinterpret_cast<const Vec*>(query + e * columns);
    for (int r = 0; r < R; ++r) {
      sum[r][0] += tokens[r * width + e] * q[0];
      sum[r][1] += tokens[r * width + e] * q[1];
    }
  }
  Vec* top = reinterpret_cast<Vec*>(best);
  for (int r = 0; r < R; ++r) {
    top[0] = top[0] > sum[r][0] ? top[0] : sum[r][0];
    top[1] = top[1] > sum[r][1] ? top[1] : sum[r][1];
  }
}

template <typename T>
static void run(T* out, const T* query_vecs, const T* doc_vecs, const bool* mask, int64_t queries, int64_t m, int64_t documents,
                int64_t length, int64_t width) {
  const int64_t asked = queries * m, columns = (asked + kColumns - 1) / kColumns * kColumns;
  std::vector<float> query(width * columns, 0.f);  // transposed: a vector holds one dimension of several tokens
  for (int64_t t = 0; t < asked; ++t) {
    for (int64_t e = 0; e < width; ++e) query[e * columns + t] = fk::load(query_vecs + t * width + e);
  }
#pragma omp parallel
  {
    std::vector<float> tokens(length * width), best(columns);
#pragma omp for schedule(dynamic, 1)
    for (int64_t j = 0; j < documents; ++j) {
      int64_t count = 0;
      for (int64_t u = 0; u < length; ++u) {
        if (!mask[j * length + u]) continue;
        const T* source = doc_vecs + (j * length + u) * width;
        float* target = tokens.data() + count++ * width;
#pragma omp simd
        for (int64_t e = 0; e < width; ++e) target[e] = fk::load(source + e);
      }
      std::fill(best.begin(), best.end(), -std::numeric_limits<float>::infinity());
      for (int64_t t = 0; t < columns; t += kColumns) {
        int64_t u = 0;
        for (; u + kRows <= count; u += kRows) tile<kRows>(&tokens[u * width], &query[t], width, columns, &best[t]);
        for (; u < count; ++u) tile<1>(&tokens[u * width], &query[t], width, columns, &best[t]);
      }
      for (int64_t i = 0; i < queries; ++i) {
        float sum = 0.f;
        for (int64_t t = 0; t < m; ++t) sum += best[i * m + t];
        fk::store(out + i * documents + j, sum);
      }
    }
  }
}

void maxsim(tvm::ffi::TensorView out, tvm::ffi::TensorView query_vecs, tvm::ffi::TensorView doc_vecs, tvm::ffi::TensorView doc_mask) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(query_vecs), fk::data<T>(doc_vecs), fk::data<bool>(doc_mask), query_vecs.size(0),
           query_vecs.size(1), doc_vecs.size(0), doc_vecs.size(1), doc_vecs.size(2));
  });
}
