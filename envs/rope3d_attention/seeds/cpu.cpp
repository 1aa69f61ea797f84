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

// Cosines and sines of a token, by part and frequency.
struct Turn {
  int64_t count;  // frequencies of a part
  std::vector<float> cosine, sine;

  Turn(const int64_t* ids, int64_t tokens, int64_t grid, int64_t width)
      : count(width / 6), cosine(tokens * 3 * count), sine(tokens * 3 * count) {
    std::vector<float> rate(count);
    for (int64_t i = 0; i < count; ++i) rate[i] = float(std::pow(10000.0, -double(i) / double(count)));
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t place[3] = {ids[t] / (grid * grid), ids[t] % (grid * grid) / grid, ids[t] % grid};
      for (int64_t a = 0; a < 3; ++a) {
        for (int64_t i = 0; i < count; ++i) {
          const float angle = float(place[a]) * rate[i];
          cosine[(t * 3 + a) * count + i] = std::cos(angle);
          sine[(t * 3 + a) * count + i] = std::sin(angle);
        }
      }
    }
  }

  // The head x of a token, turned and scaled. The two channels of a pair have neighbouring frequencies.
  template <typename T>
  void apply(float* y, const T* x, int64_t token, int64_t width, float scale) const {
    for (int64_t a = 0; a < 3; ++a) {
      const float* c = cosine.data() + (token * 3 + a) * count;
      const float* s = sine.data() + (token * 3 + a) * count;
      for (int64_t e = a * 2 * count; e < (a + 1) * 2 * count; e += 2) {
        const float u = fk::load(x + e) * scale, v = fk::load(x + e + 1) * scale;
        y[e] = u * c[e % count] - v * s[e % count];
        y[e + 1] = v * c[(e + 1) % count] + u * s[(e + 1) % count];
      }
    }
    for (int64_t e = 6 * count; e < width; ++e) y[e] = fk::load(x + e) * scale;
  }
};

// What a thread holds of one head in float32; what lies past its length and its width stays zero.
struct Scratch {
  int64_t length, width, columns, channels;
  std::vector<float> keys, values, query, weight, sum, row;

  Scratch(int64_t length, int64_t width)
      : length(length), width(width), columns(padded(length)), channels(padded(width)), keys(width * columns),
        values(length * channels), query(kRows * width), weight(kRows * columns), sum(kRows * channels), row(width) {}
};

// Attention of one head; its tokens lie `step` elements apart, and the first is number `token` of all clips.
template <typename T>
static void attend(T* out, const T* q, const T* k, const T* v, int64_t step, const Turn& turn, int64_t token, float scale, Scratch& s) {
  for (int64_t j = 0; j < s.length; ++j) {
    turn.apply(s.row.data(), k + j * step, token + j, s.width, 1.f);
    for (int64_t e = 0; e < s.width; ++e) {
      s.keys[e * s.columns + j] = s.row[e];
      s.values[j * s.channels + e] = fk::load(v + j * step + e);
    }
  }
  for (int64_t first = 0; first < s.length; first += kRows) {
    const int64_t count = std::min<int64_t>(kRows, s.length - first);
    for (int64_t m = 0; m < count; ++m) {
      turn.apply(s.query.data() + m * s.width, q + (first + m) * step, token + first + m, s.width, scale);
    }
    for (int64_t j = 0; j < s.columns; j += kTile) {
      multiply(s.query.data(), s.width, s.width, s.keys.data() + j, s.columns, s.weight.data() + j, s.columns);
    }
    for (int64_t m = 0; m < count; ++m) {
      float* weight = s.weight.data() + m * s.columns;
      float top = weight[0];
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < s.length; ++j) top = std::max(top, weight[j]);
      for (int64_t j = 0; j < s.length; ++j) weight[j] = std::exp(weight[j] - top);
      float total = 0.f;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < s.length; ++j) total += weight[j];
      for (int64_t j = 0; j < s.length; ++j) weight[j] /= total;
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
static void run(T* out, const T* q, const T* k, const T* v, const int64_t* ids, int64_t clips, int64_t tokens, int64_t heads,
                int64_t width, int64_t grid, float scale) {
  const Turn turn(ids, clips * tokens, grid, width);
#pragma omp parallel
  {
    Scratch scratch(tokens, width);
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < clips; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t start = (b * tokens * heads + h) * width;
        attend(out + start, q + start, k + start, v + start, heads * width, turn, b * tokens, scale, scratch);
      }
    }
  }
}

void rope3d_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView q, tvm::ffi::TensorView k, tvm::ffi::TensorView v,
                      tvm::ffi::TensorView position_ids, int64_t grid_size, double scale) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(q), fk::data<T>(k), fk::data<T>(v), fk::data<int64_t>(position_ids), q.size(0), q.size(1),
           q.size(2), q.size(3), grid_size, float(scale));
  });
}
