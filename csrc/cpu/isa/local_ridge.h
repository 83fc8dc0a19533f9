// Ridge regression of each item on its neighbours.
#pragma once

#include <cstdint>

namespace ekpnet {

struct LocalRidgeArgs {
  int64_t num_items;           // I
  const int64_t* gram_indptr;  // [I + 1], rows of the Gram matrix of the items
  const int32_t* gram_items;   // rising within a row
  const float* gram_values;
  // The same with its zeros, where entries are many, or null; row and column rank[i] are item i's.
  const float* gram;          // [I, I]
  const int32_t* rank;        // [I]
  const int64_t* indptr;      // [I + 1], neighbours of each item
  const int32_t* neighbours;  // rising within a row, an item not its own
  double weight;              // of the squared norm, above 0
};

// Floats that items of at most `most` neighbours need.
using LocalRidgeWorkspace = int64_t (*)(int64_t num_items, int64_t most);

// Items [begin, end): coefficients [indptr[I]] of the neighbours, (G_NN + weight)^-1 G_Ni.
using LocalRidgeKernel = void (*)(const LocalRidgeArgs& args, int64_t begin, int64_t end,
                                  float* coefficients, float* workspace);

struct LocalRidgeKernels {
  LocalRidgeWorkspace workspace_size;
  LocalRidgeKernel fit;
};

}  // namespace ekpnet
