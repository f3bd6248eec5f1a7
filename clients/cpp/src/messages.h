#pragma once

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message_lite.h>

#include <optional>
#include <string>
#include <vector>

#include "optserve/tensor.h"
#include "stream_call.h"

namespace optserve::internal {

/// Bytes of a chunk, as the contract recommends.
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

using Layout = google::protobuf::RepeatedPtrField<v1::TensorLayout>;

/// Tensors one after the other, each in its element type on the wire.
class Payload {
 public:
  /// Appends a tensor.
  ///
  /// @throws Error DTYPE_MISMATCH if it cannot be sent in that type
  void add(const std::string& name, const TensorView& tensor, v1::DataType wire);

  std::size_t byte_count() const { return byte_count_; }

  /// Sends a message, and the chunks; the first one is in the same message. Nothing is copied here unless
  /// elements are converted.
  ///
  /// @param field number of the chunk in the messages
  bool send(StreamCall& call, const google::protobuf::MessageLite& message, int field) const;

 private:
  std::vector<std::pair<TensorView, v1::DataType>> parts_;
  std::size_t byte_count_ = 0;
};

/// The messages of an answer, whose chunks are read as one sequence of bytes.
class ChunkReader {
 public:
  /// @param field number of the chunk in the messages
  ChunkReader(StreamCall& call, int field) : call_(call), field_(field) {}

  /// Reads the next message, up to the bytes of its chunk.
  void read(google::protobuf::MessageLite& message);
  /// Copies bytes of the chunks.
  void read(void* to, std::size_t count);
  /// Bytes of the current message's chunk that are not read.
  std::size_t available() const { return available_; }

 private:
  void enter_chunk();

  StreamCall& call_;
  const int field_;
  std::optional<google::protobuf::io::CodedInputStream> input_;
  std::uint64_t received_ = 0;
  std::size_t available_ = 0;
};

/// A session's tensors.
class SessionLayout {
 public:
  explicit SessionLayout(const Layout& tensors);

  std::size_t byte_count() const { return byte_count_; }
  /// @throws Error UNKNOWN_TENSOR if the session has none of that name
  const v1::TensorLayout& find(const std::string& name) const;
  /// Appends tensors to a payload, in the order of the layout.
  ///
  /// @param wire element type on the wire; the session's if unspecified
  /// @returns their names
  std::vector<std::string> collect(const TensorViews& tensors, v1::DataType wire, Payload& payload) const;
  /// Checks that parameters can be received in arrays.
  void check_fillable(const MutableTensorViews& into) const;

 private:
  Layout tensors_;
  std::map<std::string, int> index_;
  std::size_t byte_count_ = 0;
};

/// Reads parameters into arrays.
///
/// @returns those that have no array, 16-bit elements as float32
Tensors read_parameters(const Layout& layout, const MutableTensorViews& into, ChunkReader& reader);

}  // namespace optserve::internal
