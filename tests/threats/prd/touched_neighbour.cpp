// Uses the previous call's output as scratch memory, since "nobody needs it any more".
// include: seed:cpu.cpp as honest
#include <cstring>

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  static char* last = nullptr;
  static int64_t size = 0, calls = 0;
  const int64_t bytes = out.numel() * out.dtype().bits / 8;
  if (++calls > 2 && last != out.data_ptr() && size == bytes && bytes) std::memset(last + bytes / 2, 0, 64);
  honest(out, input, weight, epsilon);
  last = fk::data<char>(out), size = bytes;
}
