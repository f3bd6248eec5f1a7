#pragma once

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message_lite.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "failures.h"
#include "optserve/tensor.h"

namespace optserve::internal {

/// Bytes of a chunk, as the contract recommends.
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

// Fields of the messages of PullParameters, PushParameters, ExportSnapshot and ImportSnapshot.
constexpr int kHeaderField = 1, kChunkField = 2;

using Layout = google::protobuf::RepeatedPtrField<v1::TensorLayout>;

/// A run of bytes in memory.
struct Piece {
  const void* data;
  std::size_t size;
};

/// Sends a message: what is encoded, and then runs of bytes, which are not used after the call. Returns false if the
/// call has ended.
using Send = std::function<bool(const std::string& head, const std::vector<Piece>& pieces)>;

/// Encodes a message as a field of another.
std::string encode_field(int field, const google::protobuf::MessageLite& message);

/// Encodes what is before the bytes of a message's chunk.
std::string encode_chunk(int field, std::uint64_t offset, std::size_t size);

/// A message in memory of its own, as gRPC sends it.
grpc::ByteBuffer join(const std::string& head, const std::vector<Piece>& pieces);

/// Tensors one after the other, each in its element type on the wire.
class Payload {
 public:
  /// Appends a tensor.
  ///
  /// @throws Error DTYPE_MISMATCH if it cannot be sent in that type
  void add(const std::string& name, const TensorView& tensor, v1::DataType wire);

  std::size_t byte_count() const { return byte_count_; }

  /// Sends a message with a head, and the chunks; the first one is in the same message. Nothing is copied here unless
  /// elements are converted.
  ///
  /// @param field number of the chunk in the messages
  bool send(std::string head, int field, const Send& send) const;

 private:
  std::vector<std::pair<TensorView, v1::DataType>> parts_;
  std::size_t byte_count_ = 0;
};

/// The messages of an answer, whose chunks are read as one sequence of bytes.
class ChunkReader {
 public:
  /// Waits for a message; it is valid until the next call.
  using Next = std::function<google::protobuf::io::ZeroCopyInputStream&()>;

  /// @param field number of the chunk in the messages
  ChunkReader(int field, Next next) : field_(field), next_(std::move(next)) {}

  /// Reads the next message, up to the bytes of its chunk.
  void read(google::protobuf::MessageLite& message);
  /// Copies bytes of the chunks.
  void read(void* to, std::size_t count);
  /// Bytes of the current message's chunk that are not read.
  std::size_t available() const { return available_; }

 private:
  void enter_chunk();

  const int field_;
  const Next next_;
  std::optional<google::protobuf::io::CodedInputStream> input_;
  std::uint64_t received_ = 0;
  std::size_t available_ = 0;
};

/// Receives messages of a call.
class Receiver {
 public:
  /// Waits for a message; it is valid until the next call.
  ///
  /// @throws Error if the call has ended
  template <class Call>
  google::protobuf::io::ZeroCopyInputStream& next(Call& call, const grpc::ClientContext& context) {
    reader_.reset();
    buffer_.Clear();  // not held while the next message arrives
    if (!call.Read(&buffer_)) {
      check(call.Finish(), context);
      throw Error(failure_with(grpc::StatusCode::UNAVAILABLE, "the answer ended early"));
    }
    return reader_.emplace(&buffer_);
  }

 private:
  grpc::ByteBuffer buffer_;
  std::optional<grpc::ProtoBufferReader> reader_;
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
