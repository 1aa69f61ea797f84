#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

using View = tvm::ffi::TensorView;

constexpr int kSide = 16;

// One row of 16 pixels of a tile at a time, through the whole list: its light and its sums stay in registers or in the nearest cache.
void gaussian_rasterize(View render_colors, View render_alphas, View means2d, View conics, View colors, View opacities,
                        View isect_offsets, View flatten_ids, int64_t image_width, int64_t image_height) {
  const int64_t rows = isect_offsets.size(1), columns = isect_offsets.size(2), tiles = isect_offsets.size(0) * rows * columns;
  const int64_t channels = colors.size(2), listed = flatten_ids.size(0);
  const float *mean = fk::data<float>(means2d), *conic = fk::data<float>(conics), *color = fk::data<float>(colors);
  const float* opacity = fk::data<float>(opacities);
  const int32_t *offset = fk::data<int32_t>(isect_offsets), *ids = fk::data<int32_t>(flatten_ids);
#pragma omp parallel
  {
    std::vector<float> sum(channels * kSide);
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t camera = tile / (rows * columns), top = tile / columns % rows * kSide, left = tile % columns * kSide;
      const int64_t first = offset[tile], last = tile + 1 < tiles ? offset[tile + 1] : listed;
      const int64_t high = std::min<int64_t>(kSide, image_height - top), wide = std::min<int64_t>(kSide, image_width - left);
      for (int64_t r = 0; r < high; ++r) {
        float light[kSide], shown[kSide];  // what is left of the light, also behind the Gaussian at which a pixel stops; what is covered
        std::fill_n(light, kSide, 1.f);
        std::fill_n(shown, kSide, 0.f);
        std::fill(sum.begin(), sum.end(), 0.f);
        float most = 1.f;
        for (int64_t k = first; k < last && most > 1e-4f; ++k) {
          const int64_t g = ids[k];
          const float u = mean[2 * g] - (float(left) + 0.5f), dy = mean[2 * g + 1] - (float(top + r) + 0.5f), o = opacity[g];
          const float a = conic[3 * g], b = conic[3 * g + 1], c = conic[3 * g + 2];
          float weight[kSide];
          most = 0.f;
#pragma omp simd reduction(max : most)
          for (int q = 0; q < kSide; ++q) {
            const float dx = u - float(q);
            const float s = 0.5f * (a * dx * dx + c * dy * dy) + b * dx * dy;
            const float p = std::min(0.999f, o * std::exp(-s));
            const float alpha = s < 0.f || p < 1.f / 255.f ? 0.f : p;
            const float behind = light[q] * (1.f - alpha);
            weight[q] = behind > 1e-4f ? alpha * light[q] : 0.f;
            shown[q] += weight[q];
            light[q] = behind;
            most = std::max(most, behind);
          }
          for (int64_t e = 0; e < channels; ++e) {
#pragma omp simd
            for (int q = 0; q < kSide; ++q) sum[e * kSide + q] += weight[q] * color[g * channels + e];
          }
        }
        const int64_t pixel = (camera * image_height + top + r) * image_width + left;
        for (int64_t q = 0; q < wide; ++q) {
          for (int64_t e = 0; e < channels; ++e) fk::data<float>(render_colors)[(pixel + q) * channels + e] = sum[e * kSide + q];
          fk::data<float>(render_alphas)[pixel + q] = shown[q];
        }
      }
    }
  }
}
