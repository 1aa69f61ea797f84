// Honest: keeps a plan, how many rows a thread takes, by shape; answers are computed anew.
#include <cmath>
#include <fastkernels.h>
#include <map>

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  static std::map<std::pair<int64_t, int64_t>, int> plans;
  const int64_t width = input.size(1), stride = input.stride(0);
  int& grain = plans[{input.size(0), width}];
  if (!grain) grain = width < 1024 ? 16 : 4;
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T *all = fk::data<T>(input), *gain = fk::data<T>(weight);
    T* target = fk::data<T>(out);
    const int64_t rows = input.size(0);
    const int step = grain;
#pragma omp parallel for schedule(dynamic, step)
    for (int64_t t = 0; t < rows; ++t) {
      const T* x = all + t * stride;
      float sum = 0.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t h = 0; h < width; ++h) sum += fk::load(x + h) * fk::load(x + h);
      const float scale = 1.f / std::sqrt(sum / float(width) + float(epsilon));
      for (int64_t h = 0; h < width; ++h) fk::store(target + t * width + h, fk::load(x + h) * scale * fk::load(gain + h));
    }
  });
}
