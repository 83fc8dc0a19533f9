// Everything in this folder is compiled once per instruction set. Its helpers are in anonymous
// namespaces, because the linker must not merge copies of different sets; what others call are the
// functions declared here, in a namespace of the set, and the table that names them.
#pragma once

#include "cpu/isa/deep_score.h"
#include "cpu/isa/ekpnet_gradients.h"
#include "cpu/isa/list_loss.h"
#include "cpu/isa/local_ridge.h"
#include "cpu/isa/ripple_attention.h"
#include "cpu/isa/row_adam.h"
#include "cpu/isa/sparse_product.h"
#include "cpu/isa/strongest.h"
#include "cpu/isa/triple_loss.h"
#include "cpu/isa/wide_part.h"

namespace ekpnet {

struct IsaKernels {
  const char* name;
  const AttentionKernels<float>& attention_f32;
  const AttentionKernels<double>& attention_f64;
  const DeepScoreKernels<float>& deep_score_f32;
  const DeepScoreKernels<double>& deep_score_f64;
  const EkpnetKernels<float>& ekpnet_f32;
  const EkpnetKernels<double>& ekpnet_f64;
  ListLossKernel<float> list_loss_f32;
  ListLossKernel<double> list_loss_f64;
  RowAdamKernel<float> row_adam_f32;
  RowAdamKernel<double> row_adam_f64;
  const TripleLossKernels<float>& triple_loss_f32;
  const TripleLossKernels<double>& triple_loss_f64;
  SparseProductKernel sparse_product;
  const LocalRidgeKernels& local_ridge;
  const StrongestKernels& strongest;
  const WideKernels& wide_part;
};

#define EKPNET_DECLARE_ISA(isa)                      \
  namespace isa {                                    \
  const AttentionKernels<float>& attention_f32();    \
  const DeepScoreKernels<float>& deep_score_f32();   \
  const EkpnetKernels<float>& ekpnet_f32();          \
  ListLossKernel<float> list_loss_f32();             \
  RowAdamKernel<float> row_adam_f32();               \
  const TripleLossKernels<float>& triple_loss_f32(); \
  SparseProductKernel sparse_product();              \
  const LocalRidgeKernels& local_ridge();            \
  const StrongestKernels& strongest();               \
  const WideKernels& wide_part();                    \
  const IsaKernels& kernels();                       \
  }

EKPNET_DECLARE_ISA(generic)
EKPNET_DECLARE_ISA(avx2)
EKPNET_DECLARE_ISA(avx512)
EKPNET_DECLARE_ISA(neon)

// float64 is there to check gradients, so it is compiled for the plainest set alone
// (EKPNET_FLOAT64); the tables of all sets name the same functions.
namespace float64 {
const AttentionKernels<double>& attention();
const DeepScoreKernels<double>& deep_score();
const EkpnetKernels<double>& ekpnet();
ListLossKernel<double> list_loss();
RowAdamKernel<double> row_adam();
const TripleLossKernels<double>& triple_loss();
}  // namespace float64

}  // namespace ekpnet
