#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cerrno>

#include "server.h"

// Every allocation of the program is counted, those of gRPC included: these functions stand before glibc's.

namespace {

std::atomic<std::int64_t> live{0}, peak{0};

void* count(void* block) {
  const std::int64_t now = live += static_cast<std::int64_t>(malloc_usable_size(block));
  for (std::int64_t before = peak; before < now && !peak.compare_exchange_weak(before, now);) continue;
  return block;
}

void discount(void* block) { live -= static_cast<std::int64_t>(malloc_usable_size(block)); }

}  // namespace

extern "C" {

void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* block);

void* malloc(std::size_t size) { return count(__libc_malloc(size)); }
void* calloc(std::size_t number, std::size_t size) { return count(__libc_calloc(number, size)); }
void* realloc(void* block, std::size_t size) {
  discount(block);
  return count(__libc_realloc(block, size));
}
void* memalign(std::size_t alignment, std::size_t size) { return count(__libc_memalign(alignment, size)); }
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
  *block = memalign(alignment, size);
  return *block == nullptr ? ENOMEM : 0;
}
void free(void* block) {
  discount(block);
  __libc_free(block);
}
}

namespace optserve::test {
namespace {

/// Streams 100 MB both ways, by gRPC and by a data connection.
TEST(Memory, LargeStepsNeedNoCopy) {
  constexpr std::int64_t kElements = 25'000'000, kChunkBytes = std::int64_t{1} << 20;
  const std::vector<float> gradient(kElements, 1);
  std::vector<float> w(kElements);
  StepOptions options;
  options.into.emplace("w", w);
  const Server server({"--data-port=0"});
  for (const bool data_connections : {false, true}) {
    ClientOptions settings;
    settings.data_connections = data_connections;
    Client client(server.address(), settings);
    v1::InitializerSpec zeros;
    zeros.mutable_zeros();
    Session session = client.create_session(sgd(1), {parameter("w", zeros, {kElements})});
    const std::int64_t before = live;
    peak = before;
    for (int i = 0; i < 3; ++i) session.step({{"w", gradient}}, options);
    // The client holds no message while the next one arrives. gRPC 1.51 allocates buffers for as many bytes as it
    // once read at a time, about three chunks on loopback; neither its windows nor a resource quota bound them.
    EXPECT_LE(peak - before, (data_connections ? 1 : 4) * kChunkBytes)
        << (data_connections ? "data connection" : "gRPC");
    EXPECT_EQ(w.back(), -3);
    session.delete_session();
  }
}

}  // namespace
}  // namespace optserve::test
