#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

template <typename T>
static void run(T* out, const T* value, const int64_t* shapes, const float* places, const float* weights, const int64_t* points,
                int64_t batch, int64_t queries, int64_t heads, int64_t width, int64_t pixels, int64_t total, int64_t levels) {
#pragma omp parallel
  {
    std::vector<float> sums(width);
    float* sum = sums.data();
#pragma omp for collapse(2) schedule(static)
    for (int64_t query = 0; query < batch * queries; ++query) {
      for (int64_t head = 0; head < heads; ++head) {
        std::fill(sums.begin(), sums.end(), 0.f);
        const T* image = value + query / queries * pixels * heads * width + head * width;
        const float* place = places + (query * heads + head) * total * 2;
        const float* weight = weights + (query * heads + head) * total;
        for (int64_t level = 0; level < levels; ++level) {
          const int64_t high = shapes[2 * level], wide = shapes[2 * level + 1];
          for (int64_t p = 0; p < points[level]; ++p, place += 2, ++weight) {
            const float x = place[0] * float(wide) - 0.5f, y = place[1] * float(high) - 0.5f;
            if (!(x > -1.f && y > -1.f && x < float(wide) && y < float(high))) continue;  // far outside: no pixel is near
            const float left = std::floor(x), top = std::floor(y);
            for (int corner = 0; corner < 4; ++corner) {
              const int64_t row = int64_t(top) + corner / 2, column = int64_t(left) + corner % 2;
              if (row < 0 || row >= high || column < 0 || column >= wide) continue;
              const float share = *weight * (1.f - std::fabs(y - float(row))) * (1.f - std::fabs(x - float(column)));
              const T* near = image + (row * wide + column) * heads * width;
#pragma omp simd
              for (int64_t e = 0; e < width; ++e) sum[e] += share * fk::load(near + e);
            }
          }
          image += high * wide * heads * width;
        }
        T* target = out + (query * heads + head) * width;
        for (int64_t e = 0; e < width; ++e) fk::store(target + e, sum[e]);
      }
    }
  }
}

void ms_deform_attn(tvm::ffi::TensorView out, tvm::ffi::TensorView value, tvm::ffi::TensorView value_spatial_shapes,
                    tvm::ffi::TensorView sampling_locations, tvm::ffi::TensorView attention_weights,
                    tvm::ffi::TensorView num_points_list) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(value), fk::data<int64_t>(value_spatial_shapes), fk::data<float>(sampling_locations),
           fk::data<float>(attention_weights), fk::data<int64_t>(num_points_list), out.size(0), out.size(1), value.size(2), value.size(3),
           value.size(1), attention_weights.size(3), num_points_list.size(0));
  });
}
