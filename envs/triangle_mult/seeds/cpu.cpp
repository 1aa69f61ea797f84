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

constexpr int kRows = 4;               // rows of activations in a register tile
constexpr int kColumns = 2 * kLanes;   // columns of a weight in a register tile
constexpr int64_t kBlock = 16;         // pairs that share one pass over the weights

// exp(x), without a call, so that loops over it become vector code.
static inline float exponential(float x) {
  x = std::min(std::max(x, -87.f), 88.f);
  const float shifted = x * 1.44269504f + 12582912.f, n = shifted - 12582912.f;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  const float p = 1.f + r * (1.f + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f + r * (8.3333333e-3f + r * 1.3888889e-3f)))));
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4b400000 + 127) * (1 << 23);
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

static inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }

// A weight [n, depth] as [depth, columns], columns padded with zeros.
struct Packed {
  int64_t columns, depth;
  std::vector<float> values;
};

template <typename T>
static Packed pack(const T* weight, int64_t n, int64_t depth) {
  Packed packed{(n + kColumns - 1) / kColumns * kColumns, depth, {}};
  packed.values.assign(packed.columns * depth, 0.f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < depth; ++k) packed.values[k * packed.columns + i] = fk::load(weight + i * depth + k);
  }
  return packed;
}

template <int R>
static void tile(const float* a, const Packed& w, int64_t n, float* out) {
  Vec sum[R][2] = {};
  for (int64_t k = 0; k < w.depth; ++k) {
    const Vec* b = reinterpret_cast<const Vec*>(w.values.data() + k * w.columns + n);
    for (int r = 0; r < R; ++r) {
      sum[r][0] += a[r * w.depth + k] * b[0];
      sum[r][1] += a[r * w.depth + k] * b[1];
    }
  }
  for (int r = 0; r < R; ++r) {
    Vec* target = reinterpret_cast<Vec*>(out + r * w.columns + n);
    target[0] = sum[r][0];
    target[1] = sum[r][1];
  }
}

// out[r] = weight @ a[r], for every row r
static void multiply(const float* a, int64_t rows, const Packed& w, float* out) {
  for (int64_t n = 0; n < w.columns; n += kColumns) {
    int64_t r = 0;
    for (; r + kRows <= rows; r += kRows) tile<kRows>(a + r * w.depth, w, n, out + r * w.columns);
    for (; r < rows; ++r) tile<1>(a + r * w.depth, w, n, out + r * w.columns);
  }
}

template <typename X, typename T>
static void normalise(const X* x, const T* weight, const T* bias, int64_t width, float eps, float* out) {
  float sum = 0.f, squares = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < width; ++c) sum += fk::load(x + c);
  const float mean = sum / float(width);
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < width; ++c) squares += (fk::load(x + c) - mean) * (fk::load(x + c) - mean);
  const float scale = 1.f / std::sqrt(squares / float(width) + eps);
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) out[c] = (fk::load(x + c) - mean) * scale * fk::load(weight + c) + fk::load(bias + c);
}

template <typename T>
struct Layer {
  const T *norm_in, *shift_in, *p_in, *g_in, *norm_out, *shift_out, *p_out, *g_out;
  float eps;
};

template <typename T>
static void run(T* out, const T* x, const T* mask, const Layer<T>& layer, int64_t batch, int64_t tokens, int64_t C, bool outgoing) {
  const Packed p_in = pack(layer.p_in, 2 * C, C), g_in = pack(layer.g_in, 2 * C, C);
  const Packed p_out = pack(layer.p_out, C, C), g_out = pack(layer.g_out, C, C);
  const int64_t pairs = batch * tokens * tokens;
  std::vector<float> ab(pairs * 2 * C), gates(pairs * C);
#pragma omp parallel
  {
    std::vector<float> z(kBlock * C), p(kBlock * p_in.columns), g(kBlock * p_in.columns);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < pairs; first += kBlock) {
      const int64_t count = std::min(kBlock, pairs - first);
      for (int64_t r = 0; r < count; ++r) normalise(x + (first + r) * C, layer.norm_in, layer.shift_in, C, layer.eps, &z[r * C]);
      multiply(z.data(), count, p_in, p.data());
      multiply(z.data(), count, g_in, g.data());
      for (int64_t r = 0; r < count; ++r) {
        const float there = fk::load(mask + first + r);
        float* target = &ab[(first + r) * 2 * C];
#pragma omp simd
        for (int64_t c = 0; c < 2 * C; ++c) target[c] = there * sigmoid(g[r * g_in.columns + c]) * p[r * p_in.columns + c];
      }
      multiply(z.data(), count, g_out, g.data());
      for (int64_t r = 0; r < count; ++r) {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) gates[(first + r) * C + c] = sigmoid(g[r * g_out.columns + c]);
      }
    }
    std::vector<float> mixed(C);
    const int64_t row = outgoing ? tokens : 1, column = outgoing ? 1 : tokens;  // from token to token, from k to k
#pragma omp for schedule(static)
    for (int64_t line = 0; line < batch * tokens; ++line) {
      const int64_t start = line / tokens * tokens * tokens, i = line % tokens;
      for (int64_t first = 0; first < tokens; first += kBlock) {
        const int64_t count = std::min(kBlock, tokens - first);
        for (int64_t r = 0; r < count; ++r) {
          std::fill(mixed.begin(), mixed.end(), 0.f);
          for (int64_t k = 0; k < tokens; ++k) {
            const float* a = &ab[(start + i * row + k * column) * 2 * C];
            const float* b = &ab[(start + (first + r) * row + k * column) * 2 * C + C];
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) mixed[c] += a[c] * b[c];
          }
          normalise(mixed.data(), layer.norm_out, layer.shift_out, C, layer.eps, &z[r * C]);
        }
        multiply(z.data(), count, p_out, p.data());
        for (int64_t r = 0; r < count; ++r) {
          const int64_t pair = line * tokens + first + r;
#pragma omp simd
          for (int64_t c = 0; c < C; ++c) fk::store(out + pair * C + c, gates[pair * C + c] * p[r * p_out.columns + c]);
        }
      }
    }
  }
}

void triangle_multiplicative_update(
    tvm::ffi::TensorView out, tvm::ffi::TensorView x, bool outgoing, tvm::ffi::TensorView mask, tvm::ffi::TensorView norm_in_weight,
    tvm::ffi::TensorView norm_in_bias, tvm::ffi::TensorView p_in_weight, tvm::ffi::TensorView g_in_weight,
    tvm::ffi::TensorView norm_out_weight, tvm::ffi::TensorView norm_out_bias, tvm::ffi::TensorView p_out_weight,
    tvm::ffi::TensorView g_out_weight, double eps) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const Layer<T> layer{fk::data<T>(norm_in_weight), fk::data<T>(norm_in_bias), fk::data<T>(p_in_weight), fk::data<T>(g_in_weight),
                         fk::data<T>(norm_out_weight), fk::data<T>(norm_out_bias), fk::data<T>(p_out_weight), fk::data<T>(g_out_weight),
                         float(eps)};
    run<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(mask), layer, x.size(0), x.size(1), x.size(3), outgoing);
  });
}
