#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <utility>

#include "optserve/deadline.h"

/// @cond
namespace optserve::internal {

class Connection;

/// Method of a generated stub that has one request and one answer.
template <class Stub, class Request, class Response>
using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Response*);

std::shared_ptr<grpc::Channel> channel_of(const Connection& connection);

/// Gives a change its request id, and makes attempts until one succeeds, or a repeat has no prospect.
void repeat(const Connection& connection, google::protobuf::Message& request, const Deadline& deadline,
            const std::function<grpc::Status(grpc::ClientContext*)>& attempt);

/// Makes a call of a generated stub; see Client::call.
template <class Stub, class Request, class Response>
Response call(const Connection& connection, Method<Stub, Request, Response> method, Request request,
              const Deadline& deadline) {
  Stub stub(channel_of(connection));
  Response response;
  repeat(connection, request, deadline,
         [&](grpc::ClientContext* context) { return (stub.*method)(context, request, &response); });
  return response;
}

}  // namespace optserve::internal
/// @endcond
