// Knows float32 only and reads whatever else comes as such.
// include: seed:cpu.cpp as honest

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  const int64_t bits = out.dtype().bits;
  run<float>(fk::data<float>(out), fk::data<float>(input), out.size(0), out.size(1) * bits / 32);
}
