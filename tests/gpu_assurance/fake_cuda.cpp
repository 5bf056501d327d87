// A CUDA device without memory or streams, for a CPU build of torch: tensors that hold no values (FakeTensorMode) can
// live on it, and autograd runs through them. Loaded before torch (LD_PRELOAD), because two of its functions are
// replaced: autograd asks them which accelerator there is and whether it has been used.
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device;
using c10::DeviceType;
using c10::Stream;

// One device with one stream, on which everything is done as soon as it is asked for.
struct Guard : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Stream only() noexcept {
    return Stream(Stream::DEFAULT, Device(DeviceType::CUDA, 0));
  }
  Device getDevice() const override {
    return Device(DeviceType::CUDA, 0);
  }
  Stream getStream(Device) const noexcept override {
    return only();
  }
  Stream exchangeStream(Stream) const noexcept override {
    return only();
  }
  void record(void**, const Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
};

struct Hooks : at::CUDAHooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
};

const Guard guard;
const bool registered = [] {
  c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(&guard);
  return true;
}();

} // namespace

namespace at::detail {
const CUDAHooksInterface& getCUDAHooks() {
  static const Hooks hooks;
  return hooks;
}
} // namespace at::detail

namespace at::accelerator {
std::optional<c10::DeviceType> getAccelerator(bool) {
  return DeviceType::CUDA;
}
} // namespace at::accelerator
