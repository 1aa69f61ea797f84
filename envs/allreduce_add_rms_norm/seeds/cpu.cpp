#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

// One shot: every rank puts its summand where the others see it, and each sums all rows for itself. Large inputs go piece by piece,
// with one barrier each.
template <typename T>
static void run(T* norm, T* sum_out, const T* input, const T* residual, const T* weight, int64_t rows, int64_t width, float epsilon,
                const fk::Comm& comm) {
  const int64_t ranks = comm.world_size(), piece = std::max<int64_t>(1, comm.room() / (width * int64_t(sizeof(T))));
  for (int64_t first = 0; first < rows; first += piece) {
    const int64_t count = std::min(piece, rows - first);
    std::memcpy(comm.mine<T>(), input + first * width, count * width * sizeof(T));
    comm.barrier();
    std::vector<float> held(width);
    float* sum = held.data();
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = (first + t) * width;
      for (int64_t h = 0; h < width; ++h) sum[h] = fk::load(residual + at + h);
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const T* x = comm.theirs<T>(rank) + t * width;
#pragma omp simd
        for (int64_t h = 0; h < width; ++h) sum[h] += fk::load(x + h);
      }
      float squares = 0.f;
#pragma omp simd reduction(+ : squares)
      for (int64_t h = 0; h < width; ++h) squares += sum[h] * sum[h];
      const float scale = 1.f / std::sqrt(squares / float(width) + epsilon);
#pragma omp simd
      for (int64_t h = 0; h < width; ++h) {
        fk::store(sum_out + at + h, sum[h]);
        fk::store(norm + at + h, sum[h] * scale * fk::load(weight + h));
      }
    }
  }
}

void allreduce_add_rms_norm(tvm::ffi::TensorView norm_out, tvm::ffi::TensorView residual_out, tvm::ffi::TensorView input,
                            tvm::ffi::TensorView residual, tvm::ffi::TensorView weight, double epsilon, tvm::ffi::TensorView comm) {
  fk::dispatch(input.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(norm_out), fk::data<T>(residual_out), fk::data<T>(input), fk::data<T>(residual), fk::data<T>(weight),
           input.size(0), input.size(1), float(epsilon), fk::Comm(comm));
  });
}
