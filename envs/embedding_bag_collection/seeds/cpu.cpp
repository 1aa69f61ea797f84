#include <fastkernels.h>

template <typename T>
static void run(T* out, const int64_t* ids, const int64_t* offsets, const T* weights, const T* tables, int64_t batch, int64_t count,
                int64_t rows, int64_t width) {
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t bag = 0; bag < batch * count; ++bag) {
    const int64_t table = bag / batch, sample = bag % batch;
#pragma omp simd
    for (int64_t e = 0; e < width; ++e) {
      float sum = 0.f;
      for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i) {
        sum += fk::load(weights + i) * fk::load(tables + (table * rows + ids[i]) * width + e);
      }
      fk::store(out + (sample * count + table) * width + e, sum);
    }
  }
}

void embedding_bag_collection(tvm::ffi::TensorView out, tvm::ffi::TensorView sparse_indices, tvm::ffi::TensorView offsets,
                              tvm::ffi::TensorView weights, tvm::ffi::TensorView tables) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<int64_t>(sparse_indices), fk::data<int64_t>(offsets), fk::data<T>(weights), fk::data<T>(tables),
           out.size(0), out.size(1), tables.size(1), out.size(2));
  });
}
