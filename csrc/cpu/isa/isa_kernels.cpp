#include "cpu/isa/isa_kernels.h"

#define EKPNET_STRING_OF(x) #x
#define EKPNET_STRING(x) EKPNET_STRING_OF(x)

namespace ekpnet {
namespace EKPNET_ISA {

const IsaKernels& kernels() {
  static const IsaKernels table = {
      EKPNET_STRING(EKPNET_ISA),
      attention_f32(),
      float64::attention(),
      deep_score_f32(),
      float64::deep_score(),
      ekpnet_f32(),
      float64::ekpnet(),
      list_loss_f32(),
      float64::list_loss(),
      row_adam_f32(),
      float64::row_adam(),
      triple_loss_f32(),
      float64::triple_loss(),
      sparse_product(),
      local_ridge(),
      strongest(),
      wide_part(),
  };
  return table;
}

}  // namespace EKPNET_ISA
}  // namespace ekpnet
