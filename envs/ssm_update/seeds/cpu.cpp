#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

template <typename T>
struct Call {
  float* state;
  const T *x, *dt;
  const float* A;
  const T *B, *C, *D, *z, *bias;
  const int32_t* indices;
  T* out;
  int64_t tokens, heads, groups, width, size, x_stride, b_stride, c_stride;
  bool softplus;
};

template <typename T>
static void run(const Call<T>& c) {
#pragma omp parallel
  {
    std::vector<float> into(c.size), outof(c.size), blank(c.size);
#pragma omp for collapse(2) schedule(static)
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t group = h / (c.heads / c.groups);
        const int64_t slot = c.indices[t];
        for (int64_t i = 0; i < c.size; ++i) {
          into[i] = fk::load(c.B + t * c.b_stride + group * c.size + i);
          outof[i] = fk::load(c.C + t * c.c_stride + group * c.size + i);
        }
        float step = fk::load(c.dt + t * c.heads + h) + fk::load(c.bias + h);
        if (c.softplus && step < 20.f) step = std::log1p(std::exp(step));
        const float decay = std::exp(c.A[h] * step);
        for (int64_t p = 0; p < c.width; ++p) {
          const float value = fk::load(c.x + t * c.x_stride + h * c.width + p);
          float* row = slot < 0 ? blank.data() : c.state + ((slot * c.heads + h) * c.width + p) * c.size;
          if (slot < 0) std::fill(blank.begin(), blank.end(), 0.f);
          const float push = step * value;
          float sum = 0.f;
#pragma omp simd reduction(+ : sum)
          for (int64_t i = 0; i < c.size; ++i) {
            row[i] = row[i] * decay + push * into[i];
            sum += row[i] * outof[i];
          }
          const int64_t place = (t * c.heads + h) * c.width + p;
          const float gate = fk::load(c.z + place);
          fk::store(c.out + place, (sum + fk::load(c.D + h) * value) * gate / (1.f + std::exp(-gate)));
        }
      }
    }
  }
}

void selective_state_update(tvm::ffi::TensorView state, tvm::ffi::TensorView x, tvm::ffi::TensorView dt, tvm::ffi::TensorView A,
                            tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView D, tvm::ffi::TensorView z,
                            tvm::ffi::TensorView dt_bias, bool dt_softplus, tvm::ffi::TensorView state_batch_indices,
                            tvm::ffi::TensorView out) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>({fk::data<float>(state), fk::data<T>(x), fk::data<T>(dt), fk::data<float>(A), fk::data<T>(B), fk::data<T>(C), fk::data<T>(D),
            fk::data<T>(z), fk::data<T>(dt_bias), fk::data<int32_t>(state_batch_indices), fk::data<T>(out), x.size(0), x.size(1),
            B.size(1), x.size(2), B.size(2), x.stride(0), B.stride(0), C.stride(0), dt_softplus});
  });
}
