#include <cmath>
#include <fastkernels.h>
#include <vector>

template <typename T>
static void run(T* out, T* residual, const T* branch, const T* gate, const T* scale, const T* shift, int64_t samples, int64_t tokens,
                int64_t width, int64_t gate_row, int64_t scale_row, int64_t shift_row, float eps, bool gated) {
#pragma omp parallel
  {
    std::vector<float> row(width);
    float* y = row.data();
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < samples; ++b) {
      for (int64_t n = 0; n < tokens; ++n) {
        const int64_t start = (b * tokens + n) * width;
        const T* weight = gate + b * gate_row;
        const T* gain = scale + b * scale_row;
        const T* offset = shift + b * shift_row;
        float sum = 0.f, squares = 0.f;
#pragma omp simd
        for (int64_t h = 0; h < width; ++h) y[h] = fk::load(residual + start + h);
        if (gated) {
#pragma omp simd
          for (int64_t h = 0; h < width; ++h) {
            y[h] += fk::load(weight + h) * fk::load(branch + start + h);
            fk::store(residual + start + h, y[h]);
          }
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t h = 0; h < width; ++h) sum += y[h];
        const float mean = sum / float(width);
#pragma omp simd reduction(+ : squares)
        for (int64_t h = 0; h < width; ++h) squares += (y[h] - mean) * (y[h] - mean);
        const float inverse = 1.f / std::sqrt(squares / float(width) + eps);
#pragma omp simd
        for (int64_t h = 0; h < width; ++h) {
          fk::store(out + start + h, (y[h] - mean) * inverse * (1.f + fk::load(gain + h)) + fk::load(offset + h));
        }
      }
    }
  }
}

void adaln_modulate(tvm::ffi::TensorView out, tvm::ffi::TensorView residual, tvm::ffi::TensorView branch, tvm::ffi::TensorView gate,
                    tvm::ffi::TensorView scale, tvm::ffi::TensorView shift, double eps, bool gated) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(residual), fk::data<T>(branch), fk::data<T>(gate), fk::data<T>(scale), fk::data<T>(shift),
           out.size(0), out.size(1), out.size(2), gate.stride(0), scale.stride(0), shift.stride(0), float(eps), gated);
  });
}
