#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

constexpr int kLanes = 8;
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int kRows = 4;           // queries in a register tile
constexpr int kTile = 2 * kLanes;  // columns in a register tile: 4 x 2 sums of 8 lanes hide the latency of the multiply-adds

static int64_t padded(int64_t count) { return (count + kTile - 1) / kTile * kTile; }

// c[m][n] = sum over k of a[m][k] * b[k][n] for one tile.
static void multiply(const float* a, int64_t depth, int64_t a_row, const float* b, int64_t b_row, float* c, int64_t c_row) {
  Vec left[kRows] = {}, right[kRows] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const Vec x = *reinterpret_cast<const Vec*>(b + k * b_row), y = *reinterpret_cast<const Vec*>(b + k * b_row + kLanes);
    for (int m = 0; m < kRows; ++m) {
      left[m] += a[m * a_row + k] * x;
      right[m] += a[m * a_row + k] * y;
    }
  }
  for (int m = 0; m < kRows; ++m) {
    *reinterpret_cast<Vec*>(c + m * c_row) = left[m];
    *reinterpret_cast<Vec*>(c + m * c_row + kLanes) = right[m];
  }
}

// What a thread holds of one head of a sequence in float32; columns past the longest sequence and past a head's channels are never stored.
struct Scratch {
  int64_t width, columns, channels;
  std::vector<float> keys, values, query, weight, sum;

  Scratch(int64_t size, int64_t width)
      : width(width), columns(padded(size)), channels(padded(width)), keys(width * columns), values(size * channels),
        query(kRows * width), weight(kRows * columns), sum(kRows * channels) {}
};

// One head of one sequence: `size` queries and `seen` keys, whose rows lie `step` elements apart.
template <typename T>
static void attend(T* out, const T* q, const T* k, const T* v, const T* bias, int64_t step, int64_t size, int64_t seen, float scale,
                   Scratch& s) {
  for (int64_t t = 0; t < seen; ++t) {
    for (int64_t e = 0; e < s.width; ++e) {
      s.keys[e * s.columns + t] = fk::load(k + t * step + e);
      s.values[t * s.channels + e] = fk::load(v + t * step + e);
    }
  }
  for (int64_t first = 0; first < size; first += kRows) {
    const int64_t count = std::min<int64_t>(kRows, size - first);
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t e = 0; e < s.width; ++e) s.query[m * s.width + e] = fk::load(q + (first + m) * step + e) * scale;
    }
    for (int64_t t = 0; t < seen; t += kTile) {
      multiply(s.query.data(), s.width, s.width, s.keys.data() + t, s.columns, s.weight.data() + t, s.columns);
    }
    for (int64_t m = 0; m < count; ++m) {
      float* weight = s.weight.data() + m * s.columns;
      const T* added = bias + (first + m) * size;
#pragma omp simd
      for (int64_t t = 0; t < seen; ++t) weight[t] += fk::load(added + t);
      float top = weight[0], total = 0.f;
#pragma omp simd reduction(max : top)
      for (int64_t t = 0; t < seen; ++t) top = std::max(top, weight[t]);
      for (int64_t t = 0; t < seen; ++t) weight[t] = std::exp(weight[t] - top);
#pragma omp simd reduction(+ : total)
      for (int64_t t = 0; t < seen; ++t) total += weight[t];
      for (int64_t t = 0; t < seen; ++t) weight[t] /= total;
    }
    for (int64_t e = 0; e < s.width; e += kTile) {
      multiply(s.weight.data(), seen, s.columns, s.values.data() + e, s.channels, s.sum.data() + e, s.channels);
    }
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t e = 0; e < s.width; ++e) fk::store(out + (first + m) * step + e, s.sum[m * s.channels + e]);
    }
  }
}

void bias_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView q, tvm::ffi::TensorView k, tvm::ffi::TensorView v,
                    tvm::ffi::TensorView bias, tvm::ffi::TensorView lengths, double scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = q.size(0), size = q.size(1), heads = q.size(2), width = q.size(3), row = heads * width;
    const int32_t* seen = fk::data<int32_t>(lengths);
#pragma omp parallel
    {
      Scratch scratch(size, width);
#pragma omp for collapse(2) schedule(dynamic, 1)
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t start = b * size * row + h * width;
          attend(fk::data<T>(out) + start, fk::data<T>(q) + start, fk::data<T>(k) + start, fk::data<T>(v) + start,
                 fk::data<T>(bias) + h * size * size, row, size, seen[b], float(scale), scratch);
        }
      }
    }
  });
}
