// Small helpers for C++ submissions: element access in fp32 and dispatch over the dtypes that tasks use.
// Included by `#include <fastkernels.h>`; the tensor type itself is tvm::ffi::TensorView.
#pragma once
#include <cstdint>
#include <cstring>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>

namespace fk {

struct bf16 {
  uint16_t bits;
};

inline float load(const float* p) { return *p; }
inline void store(float* p, float v) { *p = v; }

inline float load(const bf16* p) {
  uint32_t bits = uint32_t(p->bits) << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

// Round to nearest, ties to even; NaN stays NaN.
inline void store(bf16* p, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  p->bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

template <typename T>
inline T* data(const tvm::ffi::TensorView& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Calls body(float{}) or body(fk::bf16{}).
template <typename Body>
inline void dispatch(DLDataType dtype, Body&& body) {
  if (dtype.code == kDLFloat && dtype.bits == 32) {
    body(float{});
  } else if (dtype.code == kDLBfloat && dtype.bits == 16) {
    body(bf16{});
  } else {
    TVM_FFI_THROW(TypeError) << "expected float32 or bfloat16";
  }
}

}  // namespace fk
