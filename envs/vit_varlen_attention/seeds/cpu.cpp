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
constexpr int kQueries = 48;   // tokens that share a pass over the keys
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

// Attention of up to kQueries tokens of one sequence, one head; everything that is padded holds zeros.
struct State {
  int64_t d, padded;
  std::vector<float> q, keys, values, scores, out, top, total;

  explicit State(int64_t d)
      : d(d), padded((d + kLanes - 1) / kLanes * kLanes), q(kQueries * d), keys(d * kKeys), values(kKeys * padded),
        scores(kQueries * kKeys), out(kQueries * padded), top(kQueries), total(kQueries) {}

  template <typename T>
  void begin(const T* source, int64_t stride, int64_t count, float scale) {
    std::fill(q.begin(), q.end(), 0.f);
    std::fill(out.begin(), out.end(), 0.f);
    std::fill(top.begin(), top.end(), -std::numeric_limits<float>::max());
    std::fill(total.begin(), total.end(), 0.f);
    for (int64_t m = 0; m < count; ++m)
      for (int64_t i = 0; i < d; ++i) q[m * d + i] = fk::load(source + m * stride + i) * scale;
  }

  template <typename T>
  void add(const T* key, int64_t key_stride, const T* value, int64_t value_stride, int64_t count, int64_t rows) {
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t i = 0; i < d; ++i) keys[i * kKeys + n] = fk::load(key + n * key_stride + i);  // transposed
#pragma omp simd
      for (int64_t i = 0; i < d; ++i) values[n * padded + i] = fk::load(value + n * value_stride + i);
    }
    std::fill(scores.begin(), scores.end(), 0.f);
    const int64_t width = (count + kLanes - 1) / kLanes * kLanes;
    product(q.data(), d, keys.data(), kKeys, scores.data(), kKeys, rows, width, d);
    for (int64_t m = 0; m < rows; ++m) {
      float* score = scores.data() + m * kKeys;
      float highest = top[m], sum = 0.f;
      for (int64_t n = 0; n < count; ++n) highest = std::max(highest, score[n]);
      const float shrink = std::exp(top[m] - highest);
      for (int64_t n = 0; n < count; ++n) sum += score[n] = std::exp(score[n] - highest);
      total[m] = total[m] * shrink + sum;
      top[m] = highest;
#pragma omp simd
      for (int64_t i = 0; i < padded; ++i) out[m * padded + i] *= shrink;
    }
    product(scores.data(), kKeys, values.data(), padded, out.data(), padded, rows, padded, count);
  }
};

template <typename T>
static void run(T* out, const T* q, const T* k, const T* v, const int32_t* starts, int64_t sequences, int64_t longest, int64_t heads,
                int64_t d, int64_t q_stride, int64_t k_stride, int64_t v_stride) {
  const int64_t blocks = (longest + kQueries - 1) / kQueries;
  const float width = d, scale = 1.f / std::sqrt(width);
#pragma omp parallel
  {
    State state(d);
#pragma omp for collapse(3) schedule(dynamic, 1)
    for (int64_t s = 0; s < sequences; ++s) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t first = starts[s] + block * kQueries, end = starts[s + 1];
          if (first >= end) continue;
          const int64_t count = std::min<int64_t>(kQueries, end - first), rows = (count + kRows - 1) / kRows * kRows;
          const T *keys = k + h * d, *values = v + h * d;
          state.begin(q + first * q_stride + h * d, q_stride, count, scale);
          for (int64_t key = starts[s]; key < end; key += kKeys) {
            state.add(keys + key * k_stride, k_stride, values + key * v_stride, v_stride, std::min<int64_t>(kKeys, end - key), rows);
          }
          for (int64_t m = 0; m < count; ++m) {
            T* target = out + ((first + m) * heads + h) * d;
            for (int64_t i = 0; i < d; ++i) fk::store(target + i, state.out[m * state.padded + i] / state.total[m]);
          }
        }
      }
    }
  }
}

void vit_varlen_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView q, tvm::ffi::TensorView k, tvm::ffi::TensorView v,
                          tvm::ffi::TensorView cu_seqlens, int64_t max_seqlen) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(q), fk::data<T>(k), fk::data<T>(v), fk::data<int32_t>(cu_seqlens), cu_seqlens.size(0) - 1,
           max_seqlen, q.size(1), q.size(2), q.stride(0), k.stride(0), v.stride(0));
  });
}
