#include "cpu/isa/isa_kernels.h"

#define EKPNET_STRING_OF(x) #x
#define EKPNET_STRING(x) EKPNET_STRING_OF(x)

namespace ekpnet {
namespace EKPNET_ISA {

const IsaKernels& kernels() {
  static const IsaKernels table = {
      EKPNET_STRING(EKPNET_ISA), attention_f32(),   generic::attention_f64(),   deep_score_f32(),
      generic::deep_score_f64(), ekpnet_f32(),      generic::ekpnet_f64(),      row_adam_f32(),
      generic::row_adam_f64(),   triple_loss_f32(), generic::triple_loss_f64(),
  };
  return table;
}

}  // namespace EKPNET_ISA
}  // namespace ekpnet
