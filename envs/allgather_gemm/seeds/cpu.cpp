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
static void tile(T* out, const float* x, const T* weight, int64_t depth, int64_t stride) {
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
      fk::store(out + r * stride + c, total);
    }
  }
}

// C rows of weight stay in the first-level cache while all rows of x pass by.
template <int C, typename T>
static void strip(T* out, const float* x, const T* weight, int64_t rows, int64_t depth, int64_t stride) {
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
static void multiply(T* out, const T* x, const T* weight, int64_t rows, int64_t columns, int64_t depth) {
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

// A rank's rows go where the others see them, piece by piece. Until the others' rows are there a rank multiplies its own.
template <typename T>
static void run(T* out, const T* input, const T* weight, int64_t rows, int64_t columns, int64_t depth, const fk::Comm& comm) {
  const int64_t ranks = comm.world_size(), own = comm.rank();
  const int64_t piece = std::max<int64_t>(1, comm.room() / (depth * int64_t(sizeof(T))));
  for (int64_t first = 0; first < rows; first += piece) {
    const int64_t count = std::min(piece, rows - first);
    std::memcpy(comm.mine<T>(), input + first * depth, count * depth * sizeof(T));
    for (int64_t step = 0; step < ranks; ++step) {
      if (step == 1) comm.barrier();
      const int64_t rank = (own + step) % ranks, place = rank * rows + first;
      multiply(out + place * columns, step ? comm.theirs<T>(rank) : input + first * depth, weight, count, columns, depth);
    }
  }
}

void allgather_gemm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView comm) {
  fk::dispatch(input.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), input.size(0), weight.size(0), input.size(1), fk::Comm(comm));
  });
}
