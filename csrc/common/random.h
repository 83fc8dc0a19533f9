// Counter-based randomness: a draw is a pure function of its counters, so any order of evaluation
// on any number of threads gives the same numbers and nothing has to be stored or synchronised.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace ekpnet {

// Finaliser of SplitMix64 (Steele et al. 2014, Stafford's variant 13): a bijection of 64-bit words.
EKPNET_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15ull;

// Start of an independent stream for each combination of counters.
EKPNET_HOST_DEVICE inline uint64_t stream_key(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
  uint64_t key = mix64(seed + kGoldenGamma);
  key = mix64(key ^ (a + kGoldenGamma));
  key = mix64(key ^ (b + 2 * kGoldenGamma));
  return mix64(key ^ (c + 3 * kGoldenGamma));
}

// The i-th 64 random bits of a stream.
EKPNET_HOST_DEVICE inline uint64_t random_bits(uint64_t key, uint64_t i) {
  return mix64(key + (i + 1) * kGoldenGamma);
}

// Uniform in [0, n) by the high half of a 128-bit product; the bias is at most n / 2^64.
inline uint64_t bounded(uint64_t bits, uint64_t n) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * n) >> 64);
}

}  // namespace ekpnet
