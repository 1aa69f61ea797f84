#include <algorithm>
#include <cmath>
#include <cstring>
#include <fastkernels.h>
#include <limits>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
constexpr int kWide = 4;  // 6 rows x 4 vectors of sums, 4 of operands: 28 of 32 vector registers
#else
constexpr int kLanes = 8;
constexpr int kWide = 2;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int kRows = 6;       // rows of a register tile
constexpr int kQueries = 48;   // rows (tokens times query heads of a group) that share a pass over the keys
constexpr int kKeys = 64;      // keys between two corrections of the running maximum

// c[kRows][N vectors] += a[kRows][depth] * b[depth][N vectors]; `a` is read column by column.
template <int N>
static void tile(const float* a, int64_t a_row, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t depth) {
  Vec sum[kRows][N];
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < N; ++n) sum[m][n] = *reinterpret_cast<const Vec*>(c + m * c_row + n * kLanes);
  for (int64_t k = 0; k < depth; ++k) {
    Vec y[N];
    for (int n = 0; n < N; ++n) y[n] = *reinterpret_cast<const Vec*>(b + k * b_row + n * kLanes);
    for (int m = 0; m < kRows; ++m)
      for (int n = 0; n < N; ++n) sum[m][n] += a[m * a_row + k] * y[n];
  }
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < N; ++n) *reinterpret_cast<Vec*>(c + m * c_row + n * kLanes) = sum[m][n];
}

// c += a * b for rows that are a multiple of kRows and a width that is one of kLanes.
static void product(const float* a, int64_t a_row, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t rows, int64_t width,
                    int64_t depth) {
  for (int64_t m = 0; m < rows; m += kRows) {
    int64_t n = 0;
    const float* rows_a = a + m * a_row;
    float* rows_c = c + m * c_row;
    for (; n + kWide * kLanes <= width; n += kWide * kLanes) tile<kWide>(rows_a, a_row, b + n, b_row, rows_c + n, c_row, depth);
    for (; n < width; n += kLanes) tile<1>(rows_a, a_row, b + n, b_row, rows_c + n, c_row, depth);
  }
}

// Attention of up to kQueries rows against one key-value head of one sequence; everything that is padded holds zeros.
struct State {
  int64_t d, padded;
  std::vector<float> q, keys, values, scores, out, top, total;

  explicit State(int64_t d)
      : d(d), padded((d + kLanes - 1) / kLanes * kLanes), q(kQueries * d), keys(d * kKeys), values(kKeys * padded),
        scores(kQueries * kKeys), out(kQueries * padded), top(kQueries), total(kQueries) {}

  void begin() {
    std::fill(q.begin(), q.end(), 0.f);
    std::fill(out.begin(), out.end(), 0.f);
    std::fill(top.begin(), top.end(), -std::numeric_limits<float>::max());
    std::fill(total.begin(), total.end(), 0.f);
  }

  // Adds `count` tokens, of which row m sees those before seen[m].
  template <typename T>
  void add(const T* const* key_rows, const T* const* value_rows, int64_t count, const int64_t* seen, int64_t rows) {
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t i = 0; i < d; ++i) keys[i * kKeys + n] = fk::load(key_rows[n] + i);  // transposed
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) values[n * padded + i] = fk::load(value_rows[n] + i);
    }
    std::fill(scores.begin(), scores.end(), 0.f);
    const int64_t width = (count + kLanes - 1) / kLanes * kLanes;
    product(q.data(), d, keys.data(), kKeys, scores.data(), kKeys, rows, width, d);
    for (int64_t m = 0; m < rows; ++m) {
      float* score = scores.data() + m * kKeys;
      float highest = top[m], sum = 0.f;
      for (int64_t n = 0; n < seen[m]; ++n) highest = std::max(highest, score[n]);
      const float shrink = std::exp2(top[m] - highest);
      for (int64_t n = 0; n < seen[m]; ++n) sum += score[n] = std::exp2(score[n] - highest);
      for (int64_t n = seen[m]; n < count; ++n) score[n] = 0.f;
      total[m] = total[m] * shrink + sum;
      top[m] = highest;
#pragma omp simd
      for (int64_t i = 0; i < padded; ++i) out[m * padded + i] *= shrink;
    }
    product(scores.data(), kKeys, values.data(), padded, out.data(), padded, rows, padded, count);
  }
};

struct Block {
  int64_t sequence, first;  // a sequence and the first of its rows
};

template <typename T>
static void run(T* out, float* lse, const T* q, const int32_t* starts, const T* k_cache, const T* v_cache, const int32_t* indptr,
                const int32_t* indices, const int32_t* last_page, bool causal, float scale, int64_t batch, int64_t heads, int64_t kv_heads,
                int64_t d, int64_t page) {
  const int64_t group = heads / kv_heads;
  const float to_log2 = scale * 1.4426950408889634f;
  std::vector<Block> blocks;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t first = 0; first < (starts[b + 1] - starts[b]) * group; first += kQueries) blocks.push_back({b, first});
#pragma omp parallel
  {
    State state(d);
    const T *keys[kKeys], *values[kKeys];
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (size_t block = 0; block < blocks.size(); ++block) {
      for (int64_t h = 0; h < kv_heads; ++h) {
        const int64_t b = blocks[block].sequence, first = blocks[block].first, queries = starts[b + 1] - starts[b];
        const int64_t count = std::min<int64_t>(kQueries, queries * group - first), rows = (count + kRows - 1) / kRows * kRows;
        const int64_t length = int64_t(indptr[b + 1] - indptr[b] - 1) * page + last_page[b];
        const int32_t* pages = indices + indptr[b];
        int64_t place[kQueries], limit[kQueries] = {}, seen[kQueries], end = 0;
        state.begin();
        for (int64_t m = 0; m < count; ++m) {
          const int64_t query = (first + m) / group;
          place[m] = (starts[b] + query) * heads + h * group + (first + m) % group;
          limit[m] = causal ? length - queries + query + 1 : length;
          end = std::max(end, limit[m]);
          for (int64_t i = 0; i < d; ++i) state.q[m * d + i] = fk::load(q + place[m] * d + i) * to_log2;
        }
        for (int64_t key = 0; key < end; key += kKeys) {
          const int64_t part = std::min<int64_t>(kKeys, end - key);
          for (int64_t n = 0; n < part; ++n) {
            const int64_t token = pages[(key + n) / page] * page + (key + n) % page;
            keys[n] = k_cache + (token * kv_heads + h) * d;
            values[n] = v_cache + (token * kv_heads + h) * d;
          }
          for (int64_t m = 0; m < rows; ++m) seen[m] = std::max<int64_t>(0, std::min(part, limit[m] - key));
          state.add(keys, values, part, seen, rows);
        }
        for (int64_t m = 0; m < count; ++m) {
          lse[place[m]] = state.top[m] + std::log2(state.total[m]);
          for (int64_t i = 0; i < d; ++i) fk::store(out + place[m] * d + i, state.out[m * state.padded + i] / state.total[m]);
        }
      }
    }
  }
}

void gqa_prefill(tvm::ffi::TensorView out, tvm::ffi::TensorView lse, tvm::ffi::TensorView q, tvm::ffi::TensorView qo_indptr,
                 tvm::ffi::TensorView k_cache, tvm::ffi::TensorView v_cache, tvm::ffi::TensorView kv_indptr,
                 tvm::ffi::TensorView kv_indices, tvm::ffi::TensorView last_page_len, bool causal, double sm_scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<float>(lse), fk::data<T>(q), fk::data<int32_t>(qo_indptr), fk::data<T>(k_cache), fk::data<T>(v_cache),
           fk::data<int32_t>(kv_indptr), fk::data<int32_t>(kv_indices), fk::data<int32_t>(last_page_len), causal, float(sm_scale),
           last_page_len.size(0), q.size(1), k_cache.size(2), q.size(2), k_cache.size(1));
  });
}
