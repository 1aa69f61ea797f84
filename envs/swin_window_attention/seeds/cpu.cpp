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

// What a thread holds of one head of a window in float32; what lies past its tokens and its width stays zero.
struct Scratch {
  int64_t tokens, width, columns, channels;
  std::vector<float> keys, values, query, weight, sum;

  Scratch(int64_t tokens, int64_t width)
      : tokens(tokens), width(width), columns(padded(tokens)), channels(padded(width)), keys(width * columns),
        values(tokens * channels), query(kRows * width), weight(kRows * columns), sum(kRows * channels) {}
};

// 1 / |x|, where |x| is no less than 1e-12.
template <typename T>
static float inverse_norm(const T* x, int64_t width) {
  float sum = 0.f;
  for (int64_t e = 0; e < width; ++e) sum += fk::load(x + e) * fk::load(x + e);
  return 1.f / std::max(std::sqrt(sum), 1e-12f);
}

// One head of one window: its tokens lie `step` elements apart in qkv and `out_step` in out. `bias` is the head's, by relative position.
template <typename T>
static void attend(T* out, const T* q, const T* k, const T* v, int64_t step, int64_t out_step, float scale, const float* bias,
                   const float* mask, int64_t side, Scratch& s) {
  for (int64_t j = 0; j < s.tokens; ++j) {
    const float factor = inverse_norm(k + j * step, s.width);
    for (int64_t e = 0; e < s.width; ++e) {
      s.keys[e * s.columns + j] = fk::load(k + j * step + e) * factor;
      s.values[j * s.channels + e] = fk::load(v + j * step + e);
    }
  }
  for (int64_t first = 0; first < s.tokens; first += kRows) {
    const int64_t count = std::min<int64_t>(kRows, s.tokens - first);
    for (int64_t m = 0; m < count; ++m) {
      const T* x = q + (first + m) * step;
      const float factor = inverse_norm(x, s.width) * scale;
      for (int64_t e = 0; e < s.width; ++e) s.query[m * s.width + e] = fk::load(x + e) * factor;
    }
    for (int64_t j = 0; j < s.columns; j += kTile) {
      multiply(s.query.data(), s.width, s.width, s.keys.data() + j, s.columns, s.weight.data() + j, s.columns);
    }
    for (int64_t m = 0; m < count; ++m) {
      float* weight = s.weight.data() + m * s.columns;
      const int64_t i = first + m;
      for (int64_t y = 0; y < side; ++y) {
        const float* row = bias + (i / side - y + side - 1) * (2 * side - 1) + i % side + side - 1;
        for (int64_t x = 0; x < side; ++x) weight[y * side + x] += row[-x];
      }
      if (mask) {
        for (int64_t j = 0; j < s.tokens; ++j) weight[j] += mask[i * s.tokens + j];
      }
      float top = weight[0];
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < s.tokens; ++j) top = std::max(top, weight[j]);
      for (int64_t j = 0; j < s.tokens; ++j) weight[j] = std::exp(weight[j] - top);
      float total = 0.f;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < s.tokens; ++j) total += weight[j];
      for (int64_t j = 0; j < s.tokens; ++j) weight[j] /= total;
    }
    for (int64_t e = 0; e < s.channels; e += kTile) {
      multiply(s.weight.data(), s.tokens, s.columns, s.values.data() + e, s.channels, s.sum.data() + e, s.channels);
    }
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t e = 0; e < s.width; ++e) fk::store(out + (first + m) * out_step + e, s.sum[m * s.channels + e]);
    }
  }
}

template <typename T>
static void run(T* out, const T* qkv, const float* logit_scale, const float* table, const float* mask, int64_t windows, int64_t places,
                int64_t tokens, int64_t heads, int64_t width, int64_t side, bool shifted) {
  const int64_t entries = (2 * side - 1) * (2 * side - 1), row = heads * width;
  std::vector<float> bias(heads * entries);  // head by head, unlike the table
  for (int64_t r = 0; r < entries; ++r) {
    for (int64_t h = 0; h < heads; ++h) bias[h * entries + r] = 16.f / (1.f + std::exp(-table[r * heads + h]));
  }
#pragma omp parallel
  {
    Scratch scratch(tokens, width);
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < windows; ++n) {
      for (int64_t h = 0; h < heads; ++h) {
        const T* q = qkv + n * tokens * 3 * row + h * width;
        const float scale = std::exp(std::min(logit_scale[h], std::log(100.f)));
        const float* added = shifted ? mask + n % places * tokens * tokens : nullptr;
        attend(out + n * tokens * row + h * width, q, q + row, q + 2 * row, 3 * row, row, scale, bias.data() + h * entries, added, side,
               scratch);
      }
    }
  }
}

void swin_window_attention(tvm::ffi::TensorView out, tvm::ffi::TensorView qkv, tvm::ffi::TensorView logit_scale,
                           tvm::ffi::TensorView bias_table, tvm::ffi::TensorView mask, int64_t window_size, bool shifted) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t heads = logit_scale.size(0);
    run<T>(fk::data<T>(out), fk::data<T>(qkv), fk::data<float>(logit_scale), fk::data<float>(bias_table), fk::data<float>(mask),
           out.size(0), mask.size(0), out.size(1), heads, out.size(2) / heads, window_size, shifted);
  });
}
