#include <algorithm>
#include <cmath>
#include <fastkernels.h>
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

// One stream of tokens, and the weights of its norms.
template <typename T>
struct Stream {
  T* out;
  const T *query, *key, *value, *norm_q, *norm_k;
  int64_t tokens;
};

// A head of a query or key, normalised and rotated.
template <typename T>
static void prepare(const T* x, const T* weight, const float* cos, const float* sin, int64_t d, float eps, float scale, float* result) {
  float sum = 0.f;
  for (int64_t i = 0; i < d; ++i) sum += fk::load(x + i) * fk::load(x + i);
  const float norm = scale / std::sqrt(sum / float(d) + eps);
  for (int64_t i = 0; i < d / 2; ++i) {
    const float a = fk::load(x + 2 * i) * norm * fk::load(weight + 2 * i);
    const float b = fk::load(x + 2 * i + 1) * norm * fk::load(weight + 2 * i + 1);
    result[2 * i] = a * cos[i] - b * sin[i];
    result[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

template <typename T>
static void run(const Stream<T>& text, const Stream<T>& image, const float* cos, const float* sin, float eps, int64_t batch, int64_t heads,
                int64_t d) {
  const int64_t tokens = text.tokens + image.tokens, half = d / 2;
  const float width = d, scale = 1.f / std::sqrt(width);
  const int64_t columns = (tokens + kLanes - 1) / kLanes * kLanes, padded = (d + kLanes - 1) / kLanes * kLanes;
  // Stream of a token of both together, and where its head begins.
  const auto stream = [&](int64_t t) -> const Stream<T>& { return t < text.tokens ? text : image; };
  const auto place = [&](int64_t sample, int64_t t, int64_t h) {
    return ((t < text.tokens ? sample * text.tokens + t : sample * image.tokens + t - text.tokens) * heads + h) * d;
  };
#pragma omp parallel
  {
    std::vector<float> keys(d * columns), values(tokens * padded), key(d);
    std::vector<float> q(kQueries * d), scores(kQueries * columns), result(kQueries * padded);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int64_t sample = 0; sample < batch; ++sample) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t t = 0; t < tokens; ++t) {
          const Stream<T>& from = stream(t);
          prepare(from.key + place(sample, t, h), from.norm_k, cos + t * half, sin + t * half, d, eps, 1.f, key.data());
          for (int64_t i = 0; i < d; ++i) keys[i * columns + t] = key[i];  // transposed
          for (int64_t i = 0; i < d; ++i) values[t * padded + i] = fk::load(from.value + place(sample, t, h) + i);
        }
        for (int64_t first = 0; first < tokens; first += kQueries) {
          const int64_t count = std::min<int64_t>(kQueries, tokens - first), rows = (count + kRows - 1) / kRows * kRows;
          for (int64_t m = 0; m < count; ++m) {
            const int64_t t = first + m;
            const Stream<T>& from = stream(t);
            prepare(from.query + place(sample, t, h), from.norm_q, cos + t * half, sin + t * half, d, eps, scale, q.data() + m * d);
          }
          std::fill(scores.begin(), scores.end(), 0.f);
          std::fill(result.begin(), result.end(), 0.f);
          product(q.data(), d, keys.data(), columns, scores.data(), columns, rows, columns, d);
          for (int64_t m = 0; m < count; ++m) {
            float* score = scores.data() + m * columns;
            const float highest = *std::max_element(score, score + tokens);
            float sum = 0.f;
            for (int64_t n = 0; n < tokens; ++n) sum += score[n] = std::exp(score[n] - highest);
            for (int64_t n = 0; n < tokens; ++n) score[n] /= sum;
          }
          product(scores.data(), columns, values.data(), padded, result.data(), padded, rows, padded, tokens);
          for (int64_t m = 0; m < count; ++m) {
            T* target = stream(first + m).out + place(sample, first + m, h);
            for (int64_t i = 0; i < d; ++i) fk::store(target + i, result[m * padded + i]);
          }
        }
      }
    }
  }
}

void joint_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView encoder_out, tvm::ffi::TensorView query, tvm::ffi::TensorView key,
                     tvm::ffi::TensorView value, tvm::ffi::TensorView encoder_query, tvm::ffi::TensorView encoder_key,
                     tvm::ffi::TensorView encoder_value, tvm::ffi::TensorView norm_q, tvm::ffi::TensorView norm_k,
                     tvm::ffi::TensorView norm_added_q, tvm::ffi::TensorView norm_added_k, tvm::ffi::TensorView cos,
                     tvm::ffi::TensorView sin, double eps) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const Stream<T> image{fk::data<T>(out),    fk::data<T>(query),  fk::data<T>(key), fk::data<T>(value),
                          fk::data<T>(norm_q), fk::data<T>(norm_k), query.size(1)};
    const Stream<T> text{fk::data<T>(encoder_out),  fk::data<T>(encoder_query), fk::data<T>(encoder_key), fk::data<T>(encoder_value),
                         fk::data<T>(norm_added_q), fk::data<T>(norm_added_k),  encoder_query.size(1)};
    run<T>(text, image, fk::data<float>(cos), fk::data<float>(sin), float(eps), query.size(0), query.size(2), query.size(3));
  });
}
