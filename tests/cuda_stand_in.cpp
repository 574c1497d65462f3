// A device for tests that torch, where it was built without CUDA, takes for CUDA's: its tensors are
// in the CPU's memory and every operation on them is done by the CPU's kernels, but, as on a graphics
// processor, they do not mix with the CPU's own, and it is counted how often somebody waits for the
// device: copies to the CPU, copies from it that block (which wait for all that was asked before),
// single numbers, and operations whose result or its shape depends on the numbers.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_cpu_dispatch.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/view_cpu_dispatch.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

namespace {

constexpr auto TYPE = c10::DeviceType::CUDA;
const c10::Device DEVICE(TYPE, 0);
const c10::DispatchKeySet KEYS(c10::DispatchKey::CUDA);

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = c10::alloc_cpu(size);
    return {data, data, &c10::free_cpu, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t size) const override {
    default_copy_data(to, from, size);
  }
};

Memory memory;
REGISTER_ALLOCATOR(TYPE, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::Stream stream() const { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::DeviceType type() const override { return TYPE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// Torch asks for hooks of this name.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};

int64_t n_waits = 0;
bool waiting_is_refused = false;

void wait() {
  TORCH_CHECK(!waiting_is_refused, "called a synchronizing operation");
  n_waits++;
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, KEYS, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS,
                                           c10::dtype_or_default(dtype));
}

// The same numbers as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& given) {
  if (given.is_cpu()) return given;
  return at::from_blob(given.data_ptr(), given.sizes(), given.strides(),
                       given.options().device(at::kCPU).requires_grad(false));
}

at::Tensor to_device(const at::Tensor& found) {
  at::Tensor copy =
      at::empty_strided(found.sizes(), found.strides(), found.options().device(DEVICE));
  on_cpu(copy).copy_(found);
  return copy;
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  if (to.is_cpu() || (from.is_cpu() && !non_blocking)) wait();
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Scalar item(const at::Tensor& self) {
  wait();
  return on_cpu(self).item();
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  return at::cpu::as_strided_symint(self, size, stride, offset);
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::cpu::view_symint(self, size);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size,
                         c10::SymIntArrayRef stride) {
  return at::cpu::_reshape_alias_symint(self, size, stride);
}

// Put in the place of a tensor, or of each in a list, what becomes of it; other values stay.
template <typename Change>
void change_tensors(c10::IValue& value, const Change& change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> list;
    for (const at::Tensor& each : value.toTensorVector()) list.push_back(change(each));
    value = c10::IValue(list);
  }
}

// Any other operation, by the CPU on the same numbers. What it changes in place is changed there;
// what is new becomes a tensor of the device.
void by_the_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const bool depends = operation.hasTag(at::Tag::data_dependent_output) ||
                       operation.hasTag(at::Tag::dynamic_output_shape);
  bool by_numbers = false;  // indexed by the places alone
  std::vector<std::pair<at::Tensor, at::Tensor>> lent;  // on the CPU, and as given
  const auto lend = [&](const at::Tensor& given, bool is_index = false) -> at::Tensor {
    if (!given.defined()) return given;
    // Indices may be the CPU's, as they may for CUDA.
    TORCH_CHECK(!given.is_cpu() || given.dim() == 0 || is_index, schema.name(),
                " was given tensors on two devices, cuda and cpu");
    // What has no numbers yet may be there to be filled, and grow.
    const bool grows = !given.is_cpu() && given.numel() == 0;
    const auto options = given.options().device(at::kCPU);
    lent.emplace_back(grows ? at::empty(given.sizes(), options) : on_cpu(given), given);
    return lent.back().first;
  };
  const auto give_back = [&](const at::Tensor& found) -> at::Tensor {
    if (!found.defined() || !found.is_cpu()) return found;
    for (const auto& [own, given] : lent)
      if (own.is_same(found)) return given;
    return to_device(found);
  };
  for (size_t i = stack->size() - schema.arguments().size(); i < stack->size(); i++) {
    c10::IValue& value = (*stack)[i];
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> each : value.toOptionalTensorList())
        list.push_back(each ? std::optional<at::Tensor>(lend(*each, true)) : each);
      by_numbers = std::all_of(list.begin(), list.end(), [](std::optional<at::Tensor> each) {
        return !each || !each->defined() || each->scalar_type() == at::kLong;
      });
      value = c10::IValue(list);
    } else if (value.isDevice()) {
      value = c10::IValue(c10::Device(at::kCPU));
    } else {
      change_tensors(value, lend);
    }
  }
  if (depends && !by_numbers) wait();
  operation.callBoxed(stack);
  for (const auto& [own, given] : lent) {
    if (given.is_cpu() || own.sizes() == given.sizes()) continue;
    const at::Tensor grown = to_device(own);
    given.unsafeGetTensorImpl()->set_storage_keep_dtype(grown.storage());
    given.unsafeGetTensorImpl()->set_sizes_and_strides(grown.sizes(), grown.strides());
  }
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++)
    change_tensors((*stack)[i], give_back);
}

}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy);
  library.impl("_local_scalar_dense", &item);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  // Torch would choose kernels that the CPU has not.
  for (const char* name : {"convolution", "convolution_backward"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
}

TORCH_LIBRARY(cuda_stand_in, library) {
  // How often somebody has waited for the device, and whether that is an error.
  library.def("refuse_waiting", [](bool refuse) { waiting_is_refused = refuse; });
  library.def("n_waits", []() -> int64_t { return n_waits; });
}
