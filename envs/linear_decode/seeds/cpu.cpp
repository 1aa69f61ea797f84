#include <algorithm>
#include <cstring>
#include <fastkernels.h>
#include <vector>

constexpr int kRows = 4, kColumns = 3;  // 12 accumulators, 3 weights and 1 input fill the 16 vector registers of AVX2

typedef float Vector __attribute__((vector_size(32)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));

static inline Vector load8(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline Vector load8(const fk::bf16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof h);
  return (Vector)(__builtin_convertvector(h, Bits) << 16);
}

// R rows of x by C rows of weight. `x` is float32 and `out` has `stride` columns.
template <int R, int C, typename T>
static void tile(T* out, const float* x, const T* weight, const T* bias, int64_t depth, int64_t stride) {
  Vector sum[R][C] = {};
  int64_t k = 0;
  for (; k + 8 <= depth; k += 8) {
    Vector w[C];
    for (int c = 0; c < C; ++c) w[c] = load8(weight + c * depth + k);
    for (int r = 0; r < R; ++r) {
      const Vector v = load8(x + r * depth + k);
      for (int c = 0; c < C; ++c) sum[r][c] += v * w[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) {
      float total = fk::load(bias + c);
      for (int lane = 0; lane < 8; ++lane) total += sum[r][c][lane];
      for (int64_t i = k; i < depth; ++i) total += x[r * depth + i] * fk::load(weight + c * depth + i);
      fk::store(out + r * stride + c, total);
    }
  }
}

// C rows of weight stay in the first-level cache while all rows of x pass by.
template <int C, typename T>
static void strip(T* out, const float* x, const T* weight, const T* bias, int64_t rows, int64_t depth, int64_t stride) {
  int64_t m = 0;
  for (; m + kRows <= rows; m += kRows) tile<kRows, C>(out + m * stride, x + m * depth, weight, bias, depth, stride);
  switch (rows - m) {
    case 3: tile<3, C>(out + m * stride, x + m * depth, weight, bias, depth, stride); break;
    case 2: tile<2, C>(out + m * stride, x + m * depth, weight, bias, depth, stride); break;
    case 1: tile<1, C>(out + m * stride, x + m * depth, weight, bias, depth, stride); break;
  }
}

template <typename T>
static void run(T* out, const T* x, const T* weight, const T* bias, int64_t rows, int64_t columns, int64_t depth) {
  std::vector<float> wide(rows * depth);
  for (int64_t i = 0; i < rows * depth; ++i) wide[i] = fk::load(x + i);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < columns; n += kColumns) {
    const T* w = weight + n * depth;
    switch (std::min<int64_t>(kColumns, columns - n)) {
      case 3: strip<3>(out + n, wide.data(), w, bias + n, rows, depth, columns); break;
      case 2: strip<2>(out + n, wide.data(), w, bias + n, rows, depth, columns); break;
      case 1: strip<1>(out + n, wide.data(), w, bias + n, rows, depth, columns); break;
    }
  }
}

void linear_decode(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(weight), fk::data<T>(bias), out.size(0), out.size(1), x.size(1));
  });
}
