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

// What a thread holds of one sequence in float32; what lies past its length and its width stays zero.
struct Scratch {
  int64_t length, width, columns, channels;
  std::vector<float> keys, values, query, weight, sum;

  Scratch(int64_t length, int64_t width)
      : length(length), width(width), columns(padded(length)), channels(padded(width)), keys(width * columns),
        values(length * channels), query(kRows * width), weight(kRows * columns), sum(kRows * channels) {}
};

// Attention of one sequence: rows of `width` channels, each `step` elements behind the one before.
template <typename T>
static void attend(T* out, const T* q, const T* k, const T* v, int64_t step, bool causal, float scale, Scratch& s) {
  for (int64_t j = 0; j < s.length; ++j) {
    for (int64_t e = 0; e < s.width; ++e) {
      s.keys[e * s.columns + j] = fk::load(k + j * step + e);
      s.values[j * s.channels + e] = fk::load(v + j * step + e);
    }
  }
  for (int64_t first = 0; first < s.length; first += kRows) {
    const int64_t count = std::min<int64_t>(kRows, s.length - first);
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t e = 0; e < s.width; ++e) s.query[m * s.width + e] = fk::load(q + (first + m) * step + e) * scale;
    }
    for (int64_t j = 0; j < s.columns; j += kTile) {
      multiply(s.query.data(), s.width, s.width, s.keys.data() + j, s.columns, s.weight.data() + j, s.columns);
    }
    for (int64_t m = 0; m < count; ++m) {
      float* weight = s.weight.data() + m * s.columns;
      const int64_t seen = causal ? first + m + 1 : s.length;
      float top = weight[0];
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < seen; ++j) top = std::max(top, weight[j]);
      for (int64_t j = 0; j < seen; ++j) weight[j] = std::exp(weight[j] - top);
      float total = 0.f;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < seen; ++j) total += weight[j];
      for (int64_t j = 0; j < s.length; ++j) weight[j] = j < seen ? weight[j] / total : 0.f;
    }
    for (int64_t e = 0; e < s.channels; e += kTile) {
      multiply(s.weight.data(), s.length, s.columns, s.values.data() + e, s.channels, s.sum.data() + e, s.channels);
    }
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t e = 0; e < s.width; ++e) fk::store(out + (first + m) * step + e, s.sum[m * s.channels + e]);
    }
  }
}

template <typename T>
static void run(T* out, const T* q, const T* k, const T* v, int64_t clips, int64_t frames, int64_t patches, int64_t heads,
                int64_t width, bool temporal, float scale) {
  const int64_t length = temporal ? frames : patches, others = temporal ? patches : frames;
  const int64_t row = heads * width;
  const int64_t step = temporal ? patches * row : row, apart = temporal ? row : patches * row;
#pragma omp parallel
  {
    Scratch scratch(length, width);
#pragma omp for collapse(3) schedule(static)
    for (int64_t b = 0; b < clips; ++b) {
      for (int64_t n = 0; n < others; ++n) {
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t start = b * frames * patches * row + n * apart + h * width;
          attend(out + start, q + start, k + start, v + start, step, temporal, scale, scratch);
        }
      }
    }
  }
}

void axial_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView q, tvm::ffi::TensorView k, tvm::ffi::TensorView v, bool temporal,
                     double scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(q), fk::data<T>(k), fk::data<T>(v), q.size(0), q.size(1), q.size(2), q.size(3), q.size(4),
           temporal, float(scale));
  });
}
