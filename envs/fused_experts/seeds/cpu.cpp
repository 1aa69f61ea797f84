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

constexpr int kRows = 2;     // rows of activations in a register tile
constexpr int kColumns = 6;  // weight rows in a register tile: 2 x 6 sums fill the 16 vector registers
constexpr int kBlock = 16;   // rows that share one pass over a weight
constexpr int kSpan = 48;    // weight rows in a unit of work

struct Block {
  int64_t expert, first, count;
};

// out[m][n] = dot(a + m * K, b[n]): R x kColumns dot products that share their loads.
template <int R>
static void dots(const float* a, const float* const* b, int64_t K, float out[][kColumns]) {
  Vec sum[R][kColumns] = {};
  int64_t k = 0;
  for (; k + kLanes <= K; k += kLanes) {
    Vec y[kColumns];
    for (int n = 0; n < kColumns; ++n) y[n] = *reinterpret_cast<const Vec*>(b[n] + k);
    for (int m = 0; m < R; ++m) {
      const Vec x = *reinterpret_cast<const Vec*>(a + m * K + k);
      for (int n = 0; n < kColumns; ++n) sum[m][n] += x * y[n];
    }
  }
  for (int m = 0; m < R; ++m) {
    for (int n = 0; n < kColumns; ++n) {
      float total = 0.f;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[m][n][lane];
      for (int64_t i = k; i < K; ++i) total += a[m * K + i] * b[n][i];
      out[m][n] = total;
    }
  }
}

static const float* widen(const float* source, float*, int64_t) { return source; }

static const float* widen(const fk::bf16* source, float* scratch, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scratch[i] = fk::load(source + i);
  return scratch;
}

// Calls emit(row, sums) for every row of a block, with its products with six weight rows.
template <typename T, typename Emit>
static void multiply(const float* a, int64_t count, const T* const* weight, int64_t K, float* scratch, Emit&& emit) {
  const float* b[kColumns];
  for (int n = 0; n < kColumns; ++n) b[n] = widen(weight[n], scratch + n * K, K);
  for (int64_t m = 0; m < count; m += kRows) {
    float out[kRows][kColumns];
    const int64_t height = std::min<int64_t>(kRows, count - m);
    if (height == kRows) {
      dots<kRows>(a + m * K, b, K, out);
    } else {
      dots<1>(a + m * K, b, K, out);
    }
    for (int64_t i = 0; i < height; ++i) emit(m + i, out[i]);
  }
}

// Pairs of token and expert, sorted by expert, and the blocks that they fall into.
static std::vector<Block> sort_pairs(const int32_t* ids, int64_t pairs, int64_t experts, std::vector<int64_t>& order) {
  std::vector<int64_t> start(experts + 1, 0);
  for (int64_t p = 0; p < pairs; ++p) ++start[ids[p] + 1];
  for (int64_t e = 0; e < experts; ++e) start[e + 1] += start[e];
  std::vector<Block> blocks;
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t first = start[e]; first < start[e + 1]; first += kBlock) {
      blocks.push_back({e, first, std::min<int64_t>(kBlock, start[e + 1] - first)});
    }
  }
  for (int64_t p = 0; p < pairs; ++p) order[start[ids[p]]++] = p;
  return blocks;
}

template <typename T>
static void run(T* out, const T* x, const T* w13, const T* w2, const float* scale, const int32_t* ids, int64_t tokens, int64_t top_k,
                int64_t experts, int64_t H, int64_t I) {
  const int64_t pairs = tokens * top_k;
  std::vector<int64_t> order(pairs);
  const std::vector<Block> blocks = sort_pairs(ids, pairs, experts, order);
  std::vector<float> hidden(pairs * I), result(pairs * H);
  constexpr int kHalf = kColumns / 2, kInner = kSpan / 2;
  const int64_t inner_spans = (I + kInner - 1) / kInner, outer_spans = (H + kSpan - 1) / kSpan;
#pragma omp parallel
  {
    std::vector<float> packed(kBlock * H), scratch(kColumns * std::max(H, I));
    const T* rows[kColumns];
    const Block* held = nullptr;
#pragma omp for schedule(dynamic, 2)
    for (int64_t unit = 0; unit < int64_t(blocks.size()) * inner_spans; ++unit) {
      const Block& block = blocks[unit / inner_spans];
      const int64_t begin = unit % inner_spans * kInner, end = std::min(I, begin + kInner);
      if (held != &block) {
        for (int64_t i = 0; i < block.count; ++i) {
          const T* source = x + order[block.first + i] / top_k * H;
          float* target = packed.data() + i * H;
#pragma omp simd
          for (int64_t h = 0; h < H; ++h) target[h] = fk::load(source + h);
        }
        held = &block;
      }
      const T* weight = w13 + block.expert * 2 * I * H;
      for (int64_t n = begin; n < end; n += kHalf) {
        const int64_t width = std::min<int64_t>(kHalf, end - n);
        // Past the edge the last row is computed again and not stored.
        for (int j = 0; j < kHalf; ++j) {
          const int64_t row = n + std::min<int64_t>(j, width - 1);
          rows[j] = weight + row * H;
          rows[kHalf + j] = weight + (I + row) * H;
        }
        multiply(packed.data(), block.count, rows, H, scratch.data(), [&](int64_t m, const float* sum) {
          float* target = hidden.data() + (block.first + m) * I + n;
          for (int64_t j = 0; j < width; ++j) target[j] = sum[j] / (1.f + std::exp(-sum[j])) * sum[kHalf + j];
        });
      }
    }
#pragma omp for schedule(dynamic, 2)
    for (int64_t unit = 0; unit < int64_t(blocks.size()) * outer_spans; ++unit) {
      const Block& block = blocks[unit / outer_spans];
      const int64_t begin = unit % outer_spans * kSpan, end = std::min(H, begin + kSpan);
      const T* weight = w2 + block.expert * H * I;
      for (int64_t n = begin; n < end; n += kColumns) {
        const int64_t width = std::min<int64_t>(kColumns, end - n);
        for (int j = 0; j < kColumns; ++j) rows[j] = weight + (n + std::min<int64_t>(j, width - 1)) * I;
        multiply(hidden.data() + block.first * I, block.count, rows, I, scratch.data(), [&](int64_t m, const float* sum) {
          const int64_t pair = order[block.first + m];
          for (int64_t j = 0; j < width; ++j) result[pair * H + n + j] = sum[j] * scale[pair];
        });
      }
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < H; ++h) {
        float sum = 0.f;
        for (int64_t j = 0; j < top_k; ++j) sum += result[(t * top_k + j) * H + h];
        fk::store(out + t * H + h, sum);
      }
    }
  }
}

void fused_experts(tvm::ffi::TensorView out, tvm::ffi::TensorView hidden_states, tvm::ffi::TensorView w13, tvm::ffi::TensorView w2,
                   tvm::ffi::TensorView topk_weights, tvm::ffi::TensorView topk_ids) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(hidden_states), fk::data<T>(w13), fk::data<T>(w2), fk::data<float>(topk_weights),
           fk::data<int32_t>(topk_ids), out.size(0), topk_ids.size(1), w13.size(0), out.size(1), w2.size(2));
  });
}
