#!/usr/bin/env bash
# Installs the library, and builds a program with it in the two ways that a user has: find_package and pkg-config.
#
#   installed.sh BUILD
set -euo pipefail
build=$(cd "$1" && pwd)
prefix=$build/prefix
source=$build/installed
rm -rf "$prefix" "$source"
cmake --install "$build" --prefix "$prefix" >/dev/null

mkdir -p "$source"
cat >"$source/main.cc" <<'PROGRAM'
#include <optserve/optserve.h>
#include <optserve/v1/capabilities_service.grpc.pb.h>

#include <iostream>
#if __cplusplus >= 202002L
#include <span>
static_assert(std::is_convertible_v<std::span<const float>, optserve::TensorView>);
static_assert(std::is_convertible_v<std::span<float>, optserve::MutableTensorView>);
static_assert(!std::is_convertible_v<std::span<const float>, optserve::MutableTensorView>);
#endif

int main() {
  try {
    optserve::Client client("127.0.0.1:1");
    client.call(&optserve::v1::CapabilitiesService::Stub::GetCapabilities, {}, std::chrono::milliseconds(1));
  } catch (const optserve::Error& error) {
    std::cout << error.what() << '\n';
    return error.applied() == optserve::Applied::unknown ? 0 : 1;
  }
  return 1;
}
PROGRAM
cat >"$source/CMakeLists.txt" <<'PROJECT'
cmake_minimum_required(VERSION 3.16)
project(installed CXX)
find_package(optserve 0.1 REQUIRED)
add_executable(program main.cc)
target_link_libraries(program optserve::optserve)
PROJECT
cmake -S "$source" -B "$source/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >"$source/log" || { cat "$source/log"; exit 1; }
cmake --build "$source/build"
"$source/build/program"

pkgconfig=$(dirname "$(find "$prefix" -name optserve.pc)")
# The object is the same; what pkg-config states is compiled and linked with it.
g++ -std=c++20 "$source/main.cc" $(PKG_CONFIG_PATH=$pkgconfig pkg-config --define-prefix --cflags --libs optserve) \
    -o "$source/program"
"$source/program"
