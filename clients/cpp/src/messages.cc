#include "messages.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>

#include "numbers.h"

namespace optserve::internal {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

constexpr std::uint32_t kOffsetTag =
    WireFormatLite::MakeTag(v1::Chunk::kByteOffsetFieldNumber, WireFormatLite::WIRETYPE_VARINT);
constexpr std::uint32_t bytes_tag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}
constexpr std::uint32_t kDataTag = bytes_tag(v1::Chunk::kDataFieldNumber);

/// Elements that are converted at once.
constexpr std::size_t kConvertCount = 8192;

/// Appends to an encoded message what is before the bytes of its chunk, whose number is field.
void append_chunk(std::string& message, int field, std::uint64_t offset, std::size_t size) {
  google::protobuf::io::StringOutputStream sink(&message);
  CodedOutputStream output(&sink);
  output.WriteTag(bytes_tag(field));
  output.WriteVarint64(2 + CodedOutputStream::VarintSize64(offset) + CodedOutputStream::VarintSize64(size) + size);
  output.WriteTag(kOffsetTag);
  output.WriteVarint64(offset);
  output.WriteTag(kDataTag);
  output.WriteVarint64(size);
}

Error no_message() { return malformed("is no message of this service"); }

Shape shape_of(const v1::TensorLayout& tensor) { return {tensor.shape().begin(), tensor.shape().end()}; }

}  // namespace

void Payload::add(const std::string& name, const TensorView& tensor, v1::DataType wire) {
  check_convertible(name, tensor.dtype(), wire);
  parts_.emplace_back(tensor, wire);
  byte_count_ += tensor.size() * width(wire);
}

bool Payload::send(StreamCall& call, const google::protobuf::MessageLite& message, int field) const {
  std::string head = message.SerializeAsString();
  std::vector<Piece> pieces;
  std::vector<std::byte> converted;
  std::size_t offset = 0, size = 0;  // of the chunk
  const auto flush = [&] {
    if (size > 0) append_chunk(head, field, offset, size);
    const bool is_sent = call.send(head, pieces);
    offset += std::exchange(size, 0);
    head.clear();
    pieces.clear();
    return is_sent;
  };
  for (const auto& [tensor, wire] : parts_) {
    for (std::size_t done = 0; done < tensor.size();) {
      const std::size_t count = std::min(tensor.size() - done, (kChunkBytes - size) / width(wire));
      if (count == 0) {
        if (!flush()) return false;
        continue;
      }
      const void* from = static_cast<const std::byte*>(tensor.data()) + done * width(tensor.dtype());
      if (tensor.dtype() != wire) {
        converted.resize(kChunkBytes);
        convert(from, tensor.dtype(), &converted[size], wire, count);
        from = &converted[size];
      }
      pieces.push_back({from, count * width(wire)});
      size += count * width(wire);
      done += count;
    }
  }
  return (size == 0 && head.empty()) || flush();
}

void ChunkReader::read(google::protobuf::MessageLite& message) {
  input_.reset();  // it uses the message before
  input_.emplace(&call_.receive());
  std::string head;
  {
    google::protobuf::io::StringOutputStream sink(&head);
    CodedOutputStream output(&sink);
    while (const std::uint32_t tag = input_->ReadTag()) {
      if (tag == bytes_tag(field_)) {  // the last field that this client knows
        enter_chunk();
        break;
      }
      if (!WireFormatLite::SkipField(&*input_, tag, &output)) throw no_message();
    }
  }
  if (!message.ParseFromString(head)) throw no_message();
}

void ChunkReader::enter_chunk() {
  std::uint64_t offset = 0, size = 0;
  const auto limit = input_->ReadLengthAndPushLimit();
  std::uint32_t tag = input_->ReadTag();
  if (tag == kOffsetTag && input_->ReadVarint64(&offset)) tag = input_->ReadTag();
  if (tag == kDataTag ? !input_->ReadVarint64(&size) : tag != 0) throw no_message();
  input_->PopLimit(limit);
  if (offset != received_) {
    throw malformed("has a chunk at " + std::to_string(offset) + ", not at " + std::to_string(received_));
  }
  available_ = size;
}

void ChunkReader::read(void* to, std::size_t count) {
  while (count > 0) {
    if (available_ == 0) {
      google::protobuf::Empty rest;
      read(rest);
      if (available_ == 0) throw malformed("has a message without a chunk among its chunks");
    }
    const std::size_t some = std::min(count, available_);
    if (!input_->ReadRaw(to, static_cast<int>(some))) throw no_message();
    to = static_cast<std::byte*>(to) + some;
    count -= some;
    available_ -= some;
    received_ += some;
  }
}

SessionLayout::SessionLayout(const Layout& tensors) : tensors_(tensors) {
  for (int i = 0; i < tensors_.size(); ++i) {
    index_.emplace(tensors_[i].name(), i);
    byte_count_ += tensors_[i].byte_count();
  }
}

const v1::TensorLayout& SessionLayout::find(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    throw rejection(v1::ERROR_REASON_UNKNOWN_TENSOR, name, "the session has no tensor of this name");
  }
  return tensors_[found->second];
}

std::vector<std::string> SessionLayout::collect(const TensorViews& tensors, v1::DataType wire, Payload& payload) const {
  for (const auto& [name, tensor] : tensors) check_shape(name, tensor, shape_of(find(name)));
  std::vector<std::string> names;
  for (const v1::TensorLayout& own : tensors_) {
    const auto given = tensors.find(own.name());
    if (given == tensors.end()) continue;
    payload.add(own.name(), given->second, wire == v1::DATA_TYPE_UNSPECIFIED ? own.dtype() : wire);
    names.push_back(own.name());
  }
  return names;
}

void SessionLayout::check_fillable(const MutableTensorViews& into) const {
  for (const auto& [name, array] : into) {
    const v1::TensorLayout& own = find(name);
    check_shape(name, array, shape_of(own));
    check_convertible(name, own.dtype(), array.dtype());
  }
}

Tensors read_parameters(const Layout& layout, const MutableTensorViews& into, ChunkReader& reader) {
  Tensors tensors;
  std::vector<std::byte> unconverted;
  for (const v1::TensorLayout& own : layout) {
    const std::size_t size = count(shape_of(own)), wire = width(own.dtype());
    v1::DataType dtype = wire == 2 ? v1::DATA_TYPE_FLOAT32 : own.dtype();
    void* to = nullptr;
    if (const auto array = into.find(own.name()); array != into.end()) {
      dtype = array->second.dtype();
      to = array->second.mutable_data();
      if (array->second.size() != size) throw malformed("has another layout than the session");
    } else {
      v1::Tensor& tensor = tensors[own.name()];
      tensor.set_dtype(dtype);
      *tensor.mutable_shape() = own.shape();
      tensor.mutable_data()->resize(size * width(dtype));
      to = tensor.mutable_data()->data();
    }
    if (dtype == own.dtype()) {
      reader.read(to, size * wire);
      continue;
    }
    unconverted.resize(kConvertCount * wire);
    for (std::size_t done = 0; done < size; done += kConvertCount) {
      const std::size_t some = std::min(size - done, kConvertCount);
      reader.read(unconverted.data(), some * wire);
      convert(unconverted.data(), own.dtype(), static_cast<std::byte*>(to) + done * width(dtype), dtype, some);
    }
  }
  if (reader.available() > 0) throw malformed("has more bytes than its layout");
  return tensors;
}

}  // namespace optserve::internal
