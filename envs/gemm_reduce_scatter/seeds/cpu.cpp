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
static void tile(float* out, const float* x, const T* weight, int64_t depth, int64_t stride) {
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
      float total = 0.f;
      for (int lane = 0; lane < 8; ++lane) total += sum[r][c][lane];
      for (int64_t i = k; i < depth; ++i) total += x[r * depth + i] * fk::load(weight + c * depth + i);
      out[r * stride + c] = total;
    }
  }
}

// C rows of weight stay in the first-level cache while all rows of x pass by.
template <int C, typename T>
static void strip(float* out, const float* x, const T* weight, int64_t rows, int64_t depth, int64_t stride) {
  int64_t m = 0;
  for (; m + kRows <= rows; m += kRows) tile<kRows, C>(out + m * stride, x + m * depth, weight, depth, stride);
  switch (rows - m) {
    case 3: tile<3, C>(out + m * stride, x + m * depth, weight, depth, stride); break;
    case 2: tile<2, C>(out + m * stride, x + m * depth, weight, depth, stride); break;
    case 1: tile<1, C>(out + m * stride, x + m * depth, weight, depth, stride); break;
  }
}

static const float* widen(const float* x, int64_t, std::vector<float>&) { return x; }

static const float* widen(const fk::bf16* x, int64_t size, std::vector<float>& held) {
  held.resize(size);
  float* wide = held.data();
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) wide[i] = fk::load(x + i);
  return wide;
}

template <typename T>
static void multiply(float* out, const T* x, const T* weight, int64_t rows, int64_t columns, int64_t depth) {
  std::vector<float> held;
  const float* wide = widen(x, rows * depth, held);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < columns; n += kColumns) {
    const T* w = weight + n * depth;
    switch (std::min<int64_t>(kColumns, columns - n)) {
      case 3: strip<3>(out + n, wide, w, rows, depth, columns); break;
      case 2: strip<2>(out + n, wide, w, rows, depth, columns); break;
      case 1: strip<1>(out + n, wide, w, rows, depth, columns); break;
    }
  }
}

// A rank's products for all rows go where the others see them, in float32, piece by piece; then each sums what there is for its own rows.
template <typename T>
static void run(T* out, const T* input, const T* weight, int64_t rows, int64_t columns, int64_t depth, const fk::Comm& comm) {
  const int64_t ranks = comm.world_size(), own = comm.rank();
  const int64_t piece = std::max<int64_t>(1, comm.room() / (ranks * columns * int64_t(sizeof(float))));
  std::vector<float> held(columns);
  float* sum = held.data();
  for (int64_t first = 0; first < rows; first += piece) {
    const int64_t count = std::min(piece, rows - first);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      float* part = comm.mine<float>() + rank * piece * columns;
      multiply(part, input + (rank * rows + first) * depth, weight, count, columns, depth);
    }
    comm.barrier();
    for (int64_t t = 0; t < count; ++t) {
      std::fill(held.begin(), held.end(), 0.f);
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const float* part = comm.theirs<float>(rank) + (own * piece + t) * columns;
#pragma omp simd
        for (int64_t n = 0; n < columns; ++n) sum[n] += part[n];
      }
#pragma omp simd
      for (int64_t n = 0; n < columns; ++n) fk::store(out + (first + t) * columns + n, sum[n]);
    }
  }
}

void gemm_reduce_scatter(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView comm) {
  fk::dispatch(input.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), out.size(0), out.size(1), input.size(1), fk::Comm(comm));
  });
}
