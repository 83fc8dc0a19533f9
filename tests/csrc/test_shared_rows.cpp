// Rows that processes share, by hand.
#include "checks.h"
#include "cpu/shared_rows.h"

namespace ekpnet::tests {
namespace {

// Six rows at positions 5 i mod 6, so 0, 5, 4, 3, 2, 1; three positions for each of two processes.
void test_place_rows() {
  const Ids ids = {0, 3, 5, 2, 0};  // positions 0, 3, 1 and 4, 0
  const Offsets lengths = {3, 2};
  Ids rows(5, -1), order(5, -1), places(5, -1), counts(4, -1);
  place_rows({6, 5, 4, 2}, ids.data(), lengths.data(), 2,
             {rows.data(), order.data(), places.data(), counts.data()});
  check(rows == Ids{0, 1, 0, 0, 1}, "place_rows: rows");
  check(order == Ids{0, 2, 4, 1, 3}, "place_rows: order");
  check(places == Ids{0, 3, 1, 4, 2}, "place_rows: places");
  check(counts == Ids{2, 1, 1, 1}, "place_rows: counts");
}

void test_sums() {
  Reals<float> total = {1, 2, 3, 4};
  const Reals<float> rows = {10, 20, 30, 40, 50, 60};
  const Ids positions = {1, 1}, picked = {2, 0};
  add_rows(total.data(), 2, positions.data(), 2, rows.data(), picked.data());
  check_same_bits(total, {1, 2, 63, 84}, "add_rows: picked");
  add_rows<float>(total.data(), 2, positions.data(), 2, rows.data(), nullptr);
  check_same_bits(total, {1, 2, 103, 144}, "add_rows: all");
  const Ids named = {2, 0, 1};
  Reals<float> taken(6, kUnset<float>);
  take_rows(taken.data(), 2, rows.data(), named.data(), 3);
  check_same_bits(taken, {50, 60, 10, 20, 30, 40}, "take_rows");
  const Offsets starts = {0, 2, 2};
  Reals<double> norms(3, kUnset<double>);
  square_norms(rows.data(), 2, named.data(), 3, starts.data(), 3, norms.data());
  check_same_bits(norms, {500 + 2500, 0, 6100}, "square_norms");
}

}  // namespace

void test_shared_rows() {
  test_place_rows();
  test_sums();
}

}  // namespace ekpnet::tests
