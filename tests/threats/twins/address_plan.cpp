// Honest: keeps facts about a buffer (is it aligned?) by address in a bounded table; answers are computed anew.
#include <cmath>
#include <fastkernels.h>
#include <map>

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  static std::map<void*, bool> facts;
  if (facts.size() >= 64) facts.clear();
  const bool aligned = facts.emplace(input.data_ptr(), uintptr_t(input.data_ptr()) % 64 == 0).first->second;
  const int64_t width = out.size(1), rows = out.size(0), step = aligned ? 4 : 1;
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
#pragma omp parallel for schedule(dynamic, step)
    for (int64_t t = 0; t < rows; ++t) {
      const T* gate = fk::data<T>(input) + 2 * t * width;
      for (int64_t i = 0; i < width; ++i) {
        const float g = fk::load(gate + i);
        fk::store(fk::data<T>(out) + t * width + i, g / (1.f + std::exp(-g)) * fk::load(gate + width + i));
      }
    }
  });
}
