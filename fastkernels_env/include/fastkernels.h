// Small helpers for C++ submissions: element access in fp32 and dispatch over the dtypes that tasks use.
// Included by `#include <fastkernels.h>`; the tensor type itself is tvm::ffi::TensorView.
#pragma once
#include <cstdint>
#include <cstring>
#include <sched.h>
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

// What the ranks of a multi-GPU task reach each other through, on CPU hosts: `comm` as the entry gets it. A rank's part of the workspace
// lies at peer(rank), bytes() long; it holds zeros at first and keeps what is written between calls.
class Comm {
 public:
  explicit Comm(const tvm::ffi::TensorView& comm) : words_(static_cast<const int64_t*>(comm.data_ptr())) {}
  int64_t rank() const { return words_[0]; }
  int64_t world_size() const { return words_[1]; }
  int64_t bytes() const { return words_[2]; }
  template <typename T>
  T* peer(int64_t rank, int64_t offset = 0) const {
    return reinterpret_cast<T*>(words_[3 + rank] + offset);
  }

  // Two halves of every part take turns: what a rank puts into mine() is what the others find in theirs(rank) from the next barrier() to
  // the one after that. So one barrier is enough, however far a rank is ahead. Each holds room() bytes.
  int64_t room() const { return bytes() / 2 / 64 * 64; }
  template <typename T>
  T* mine() const {
    return peer<T>(rank(), int64_t(*counter(rank()) % 2) * room());
  }
  template <typename T>
  const T* theirs(int64_t rank) const {
    return peer<T>(rank, int64_t((*counter(this->rank()) + 1) % 2) * room());
  }

  // Returns once every rank has called it as often as this one; what they wrote before is then seen.
  void barrier() const {
    const uint64_t turn = __atomic_add_fetch(counter(rank()), 1, __ATOMIC_ACQ_REL);
    for (int64_t other = 0; other < world_size(); ++other) {
      for (int64_t spins = 0; __atomic_load_n(counter(other), __ATOMIC_ACQUIRE) < turn; ++spins) {
        if (spins > 4096) sched_yield();
      }
    }
  }

 private:
  uint64_t* counter(int64_t rank) const { return peer<uint64_t>(rank, bytes()); }
  const int64_t* words_;
};

}  // namespace fk
