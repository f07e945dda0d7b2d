"""Operations of products, as a CPU and as a TPU write them, and of kernels."""

from cotjax.planning.hlo import HloModule
from cotjax.planning.products import operations


def counted(text):
    module = HloModule.parse(text)
    table = module.computations[module.entry]
    return sum(operations(one, table) for one in table.values())


def test_a_product():
    text = """
ENTRY %main (a: f32[4,8], b: f32[8,16]) -> f32[4,16] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %c = f32[4,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
    assert counted(text) == 2 * 4 * 8 * 16


def test_a_batch_of_products_as_a_tpu_writes_it():
    text = """
ENTRY %main (a: bf16[4,2,64,128], b: bf16[4,2,128,512]) -> f32[4,2,64,512] {
  %a = bf16[4,2,64,128]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[4,2,128,512]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = f32[4,2,64,512]{3,2,1,0:T(8,128)} convolution(%a, %b), window={size=4x2 stride=3x1 \
lhs_dilate=4x2}, dim_labels=01bf_01io->01bf
}
"""
    assert counted(text) == 2 * 4 * 2 * 64 * 128 * 512


def test_a_kernel_counts_what_its_author_says_and_else_nothing():
    text = """
ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %b = f32[4]{0} custom-call(%a), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"1234","bytes_accessed":"9"}}}
  ROOT %c = f32[4]{0} custom-call(%b), custom_call_target="other"
}
"""
    assert counted(text) == 1234
