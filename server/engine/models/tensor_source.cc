#include "server/engine/models/tensor_source.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <span>

#include "server/base/status.h"

namespace modeld {
namespace {

constexpr int64_t kPieceBytes = 16 << 20;
constexpr int64_t kPageBytes = 4096;

at::ScalarType ScalarTypeOf(const std::string& dtype) {
  if (dtype == "F32") return at::kFloat;
  if (dtype == "F16") return at::kHalf;
  if (dtype == "U8") return at::kByte;
  MODELD_CHECK(dtype == "BF16", "a weight of a dtype that CheckTensors lets through");
  return at::kBFloat16;
}

// An F8_E4M3 tensor times its scale, a piece at a time so that little is there in float32.
at::Tensor Dequantized(const WeightSet::Tensor& tensor, at::ScalarType dtype) {
  at::Tensor whole = at::empty(tensor.stored->shape, dtype);
  const int64_t columns = tensor.scale->layout.columns;
  const at::Tensor matrix = whole.view({-1, columns});
  const int64_t piece_rows = std::max<int64_t>(1, kPieceBytes / 4 / columns);
  for (int64_t row = 0; row < matrix.size(0); row += piece_rows) {
    at::Tensor piece = at::empty({std::min(piece_rows, matrix.size(0) - row), columns}, at::kFloat);
    DequantizeFp8(tensor.data, *tensor.scale, row,
                  std::span(piece.data_ptr<float>(), static_cast<size_t>(piece.numel())));
    matrix.narrow(0, row, piece.size(0)).copy_(piece);
  }
  return whole;
}

// Brings the pages into memory, so that the first request does not wait for the disk.
void Touch(const std::byte* data, int64_t bytes) {
  // Volatile, so that the reads are not dropped.
  const volatile std::byte* page = data;
  for (int64_t at = 0; at < bytes; at += kPageBytes) (void)page[at];
  if (bytes > 0) (void)page[bytes - 1];
}

}  // namespace

at::Tensor MappedTensor(const WeightSet::Tensor& tensor) {
  const at::ScalarType dtype = ScalarTypeOf(tensor.stored->dtype);
  const auto address = reinterpret_cast<uintptr_t>(tensor.data);
  if (address % c10::elementSize(dtype) != 0) {
    // The format does not promise alignment; such a tensor is copied.
    at::Tensor copy = at::empty(tensor.stored->shape, dtype);
    std::copy_n(tensor.data, tensor.stored->bytes(), static_cast<std::byte*>(copy.data_ptr()));
    return copy;
  }
  // Nothing writes to weights, and the mapping is read-only.
  auto* data = const_cast<std::byte*>(tensor.data);
  return at::from_blob(
      data, tensor.stored->shape, [file = tensor.file](void*) {}, at::TensorOptions().dtype(dtype));
}

TensorSource::TensorSource(const WeightSet& weights, at::ScalarType dtype,
                           const DeviceOf& device_of, const Progress& progress) {
  int64_t done = 0;
  for (const auto& [name, tensor] : weights.tensors()) {
    const int64_t bytes = tensor.stored->bytes();
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      const int64_t piece = std::min(kPieceBytes, bytes - at);
      Touch(tensor.data + at, piece);
      done += piece;
      progress(done);
    }
    const at::Tensor whole =
        tensor.scale == nullptr ? MappedTensor(tensor) : Dequantized(tensor, dtype);
    // Bytes are numbers that a block knows how to read.
    const at::ScalarType kept = whole.scalar_type() == at::kByte ? at::kByte : dtype;
    tensors_.emplace(name, whole.to(device_of(name), kept));
  }
}

at::Tensor TensorSource::Get(const std::string& name) const {
  const auto at = tensors_.find(name);
  MODELD_CHECK(at != tensors_.end(), name);
  return at->second;
}

}  // namespace modeld
