#include "messages.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <grpc/slice.h>

#include <algorithm>
#include <cstring>

#include "numbers.h"

namespace optserve::internal {
namespace {

using google::protobuf::io::CodedOutputStream;

constexpr std::uint32_t kVarint = 0, kBytes = 2;
constexpr std::uint32_t tag(int field, std::uint32_t kind) { return static_cast<std::uint32_t>(field) << 3 | kind; }

// Fields of optserve.v1.Chunk.
constexpr std::uint32_t kOffsetTag = tag(1, kVarint), kDataTag = tag(2, kBytes);

/// Elements that are converted at once.
constexpr std::size_t kConvertCount = 8192;

void append_varint(std::string& to, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) to += static_cast<char>(value | 0x80);
  to += static_cast<char>(value);
}

Error no_message() { return malformed("is no message of this service"); }

Shape shape_of(const v1::TensorLayout& tensor) { return {tensor.shape().begin(), tensor.shape().end()}; }

}  // namespace

std::string encode_field(int field, const google::protobuf::MessageLite& message) {
  std::string encoded;
  append_varint(encoded, tag(field, kBytes));
  append_varint(encoded, message.ByteSizeLong());
  message.AppendToString(&encoded);
  return encoded;
}

std::string encode_chunk(int field, std::uint64_t offset, std::size_t size) {
  std::string chunk;
  append_varint(chunk, kOffsetTag);
  append_varint(chunk, offset);
  append_varint(chunk, kDataTag);
  append_varint(chunk, size);
  std::string head;
  append_varint(head, tag(field, kBytes));
  append_varint(head, chunk.size() + size);
  return head + chunk;
}

grpc::ByteBuffer join(const std::string& head, const std::vector<Piece>& pieces) {
  std::size_t size = head.size();
  for (const Piece& piece : pieces) size += piece.size;
  grpc_slice slice = grpc_slice_malloc(size);
  std::uint8_t* to = GRPC_SLICE_START_PTR(slice);
  to = std::copy(head.begin(), head.end(), to);
  for (const Piece& piece : pieces) {
    std::memcpy(to, piece.data, piece.size);
    to += piece.size;
  }
  const grpc::Slice whole(slice, grpc::Slice::STEAL_REF);
  return {&whole, 1};
}

void Payload::add(const std::string& name, const TensorView& tensor, v1::DataType wire) {
  if (!is_convertible(tensor.dtype(), wire)) {
    throw rejection(v1::ERROR_REASON_DTYPE_MISMATCH, name,
                    v1::DataType_Name(tensor.dtype()) + " cannot be sent as " + v1::DataType_Name(wire));
  }
  parts_.emplace_back(tensor, wire);
  byte_count_ += tensor.size() * width(wire);
}

bool Payload::send(std::string head, int field, const Send& send) const {
  std::vector<Piece> pieces;
  std::vector<std::byte> converted;
  std::size_t offset = 0, size = 0;  // of the chunk
  const auto flush = [&] {
    if (size > 0) head += encode_chunk(field, offset, size);
    const bool is_sent = send(head, pieces);
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
  input_.emplace(&next_());
  std::string head;
  google::protobuf::io::StringOutputStream sink(&head);
  {
    CodedOutputStream output(&sink);
    while (const std::uint32_t key = input_->ReadTag()) {
      if (key == tag(field_, kBytes)) {  // the last field that this client knows
        enter_chunk();
        break;
      }
      std::uint64_t value = 0;
      if (!input_->ReadVarint64(&value)) throw no_message();
      output.WriteTag(key);
      output.WriteVarint64(value);
      if ((key & 7) == kBytes) {
        std::string bytes;
        if (!input_->ReadString(&bytes, static_cast<int>(value))) throw no_message();
        output.WriteString(bytes);
      } else if ((key & 7) != kVarint) {
        throw no_message();
      }
    }
  }
  if (!message.ParseFromString(head)) throw no_message();
}

void ChunkReader::enter_chunk() {
  std::uint64_t offset = 0, size = 0, length = 0;
  input_->ReadVarint64(&length);
  while (length > 0) {
    const std::uint32_t key = input_->ReadTag();
    if (key == kOffsetTag && input_->ReadVarint64(&offset)) {
      length -= CodedOutputStream::VarintSize64(offset) + 1;
    } else if (key == kDataTag && input_->ReadVarint64(&size)) {
      break;
    } else {
      throw no_message();
    }
  }
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
  std::map<int, const TensorViews::value_type*> sorted;
  for (const auto& named : tensors) {
    check_shape(named.first, named.second, shape_of(find(named.first)));
    sorted.emplace(index_.at(named.first), &named);
  }
  std::vector<std::string> names;
  for (const auto& [index, named] : sorted) {
    payload.add(named->first, named->second, wire == v1::DATA_TYPE_UNSPECIFIED ? tensors_[index].dtype() : wire);
    names.push_back(named->first);
  }
  return names;
}

void SessionLayout::check_fillable(const MutableTensorViews& into) const {
  for (const auto& [name, array] : into) {
    const v1::TensorLayout& own = find(name);
    check_shape(name, array, shape_of(own));
    if (!is_convertible(own.dtype(), array.dtype())) {
      throw rejection(v1::ERROR_REASON_DTYPE_MISMATCH, name,
                      v1::DataType_Name(own.dtype()) + " cannot be received as " + v1::DataType_Name(array.dtype()));
    }
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
