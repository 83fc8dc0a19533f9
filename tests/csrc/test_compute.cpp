// The torch-free layer against loops that are written for reading. EKPNET_CPU_ISA names the
// instruction set under test.
// Exit code 0: every check holds; 1: some do not; 77: this processor lacks the instruction set.
#include <cstdlib>
#include <exception>

#include "checks.h"
#include "cpu/dispatch.h"

namespace ekpnet::tests {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// A name that was not built is refused, in a line that says which ones were.
void test_unknown_isa() {
  setenv("EKPNET_CPU_ISA", "nonsense", 1);
  std::string expected = "EKPNET_CPU_ISA=nonsense: not built; expected one of ", found;
  for (const std::string& name : built_isas())
    expected += (name == built_isas().front() ? "" : ", ") + name;
  try {
    isa_kernels();
  } catch (const std::exception& error) {
    found = error.what();
  }
  check(found == expected, "an unknown instruction set is refused by: " + found);
}

int run(const std::string& forced) {
  if (contains(built_isas(), forced) && !contains(supported_isas(), forced)) {
    std::printf("skipped: this processor does not run %s\n", forced.c_str());
    return 77;
  }
  test_unknown_isa();
  setenv("EKPNET_CPU_ISA", forced.c_str(), 1);
  const std::string name = isa_kernels().name;
  const std::string expected = forced.empty() ? supported_isas().back() : forced;
  check(name == expected, name + " runs, expected " + expected);
  test_ripple_attention();
  test_deep_score();
  test_triple_loss();
  test_ekpnet_gradients();
  test_row_adam();
  test_wide_part();
  test_sampling();
  test_shared_rows();
  test_batching();
  std::printf("%s: %d checks failed\n", name.c_str(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace ekpnet::tests

int main() {
  const char* forced = std::getenv("EKPNET_CPU_ISA");
  try {
    return ekpnet::tests::run(forced == nullptr ? "" : forced);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n", error.what());
    return 1;
  }
}
