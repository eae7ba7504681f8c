import jax
import jax.numpy as jnp
import pytest

from tadjax.profiling import flops
from tadjax.profiling.compiled_text import parse, walk
from tadjax.profiling.roofline import Kernel, Work, operations_of, roofline, traffic_of, work

# A loop over stacked weights [5, 8, 16], as compilers write it: the fusion reads one layer's weights and puts one
# layer's result into the stack of results. What lies in S(1) does not go through the device's memory.
LOOP = """\
%layer (w: bf16[5,8,16], i: s32[], x: bf16[32,8], y: bf16[5,32,16]) -> bf16[5,32,16] {
  %w = bf16[5,8,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = bf16[32,8]{1,0} parameter(2)
  %y = bf16[5,32,16]{2,1,0} parameter(3)
  %kernel = bf16[8,16]{1,0} fusion(%w, %i), kind=kLoop, calls=%slice
  %product = bf16[32,16]{1,0} convolution(%x, %kernel), dim_labels=bf_io->bf
  %update = bf16[1,32,16]{2,1,0} bitcast(%product)
  ROOT %placed = bf16[5,32,16]{2,1,0} dynamic-update-slice(%y, %update, %i, %zero, %zero)
}

%slice (w: bf16[5,8,16], i: s32[]) -> bf16[8,16] {
  %w = bf16[5,8,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %one = bf16[1,8,16]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,8,16}
  ROOT %flat = bf16[8,16]{1,0} bitcast(%one)
}

%body (t: (s32[], bf16[5,8,16], bf16[32,8], bf16[5,32,16])) -> (s32[], bf16[5,8,16], bf16[32,8], bf16[5,32,16]) {
  %t = (s32[], bf16[5,8,16]{2,1,0}, bf16[32,8]{1,0:S(1)}, bf16[5,32,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %w = bf16[5,8,16]{2,1,0} get-tuple-element(%t), index=1
  %x = bf16[32,8]{1,0:S(1)} get-tuple-element(%t), index=2
  %y = bf16[5,32,16]{2,1,0} get-tuple-element(%t), index=3
  %next = bf16[5,32,16]{2,1,0} fusion(%w, %i, %x, %y), kind=kOutput, calls=%layer
  ROOT %u = (s32[], bf16[5,8,16]{2,1,0}, bf16[32,8]{1,0:S(1)}, bf16[5,32,16]{2,1,0}) tuple(%i, %w, %x, %next)
}

ENTRY %main (w: bf16[5,8,16], x: bf16[32,8]) -> bf16[5,32,16] {
  %w = bf16[5,8,16]{2,1,0} parameter(0)
  %x = bf16[32,8]{1,0} parameter(1)
  %fetched = (bf16[32,8]{1,0:S(1)}, bf16[32,8]{1,0}, u32[]{:S(2)}) copy-start(%x)
  %near = bf16[32,8]{1,0:S(1)} copy-done(%fetched)
  %start = (s32[], bf16[5,8,16]{2,1,0}, bf16[32,8]{1,0:S(1)}, bf16[5,32,16]{2,1,0}) tuple(%i, %w, %near, %y)
  ROOT %loop = (s32[]) while(%start), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_a_loop_over_stacked_weights_reads_and_writes_a_layer_at_a_time():
    found = work(parse(LOOP))
    assert found.operations == 5 * 2 * 32 * 8 * 16
    fetched, weights, index, result = 32 * 8 * 2, 8 * 16 * 2, 4, 32 * 16 * 2
    assert found.memory_bytes == fetched + 5 * (weights + index + result)


def one(line: str, *operands: str) -> tuple[int, int]:
    """(operations, bytes through the device's memory) of one instruction, and of no other."""
    given = [f"  %p{n} = {shape} parameter({n})\n" for n, shape in enumerate(operands)]
    program = parse(f"ENTRY %main () -> x {{\n{''.join(given)}  ROOT {line}\n}}\n")
    run = list(walk(program))[-1]
    return operations_of(run), traffic_of(run, program)


@pytest.mark.parametrize(
    "window, labels, left, right, out, operations",
    [
        ("{size=3 pad=1_1}", "b0f_0io->b0f", (2, 10, 4), (3, 4, 6), (2, 10, 6), 2 * 2 * 28 * 4 * 6),
        ("{size=3 stride=2 pad=1_1}", "bf0_oi0->bf0", (2, 4, 10), (6, 4, 3), (2, 6, 5), 2 * 2 * 14 * 4 * 6),
        ("{size=3 pad=2_2 rhs_dilate=2}", "b0f_0io->b0f", (1, 10, 4), (3, 4, 6), (1, 10, 6), 2 * 26 * 4 * 6),
        ("{size=3 pad=1_2 lhs_dilate=2}", "b0f_0io->b0f", (1, 5, 4), (3, 4, 6), (1, 10, 6), 2 * 14 * 4 * 6),
        # A product batched over 4 heads as TPUs write it: place y of the result meets the kernel's y alone.
        ("{size=4 stride=3 lhs_dilate=4}", "0bf_0io->0bf", (4, 7, 8), (4, 8, 9), (4, 7, 9), 2 * 4 * 7 * 8 * 9),
        ("{size=2x3}", "b01f_01io->b01f", (1, 5, 5, 2), (2, 3, 2, 7), (1, 4, 3, 7), 2 * 12 * 6 * 2 * 7),
    ],
)
def test_a_convolution_counts_where_its_kernel_meets_its_input(window, labels, left, right, out, operations):
    shapes = [f"f32{list(dimensions)}".replace(" ", "") for dimensions in (left, right, out)]
    line = f"%c = {shapes[2]} convolution(%p0, %p1), window={window}, dim_labels={labels}"
    assert one(line, *shapes[:2])[0] == operations


def test_products_by_the_libraries_of_gpus():
    call = '%c = (f32[64,48], s8[4194304]) custom-call(%p0, %p1), custom_call_target="__cublas$gemm", backend_config='
    gemm = '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}}'
    wanted = 2 * 64 * 48 * 32
    assert one(call + gemm, "f32[32,64]", "f32[32,48]") == (wanted, 4 * (32 * 64 + 32 * 48 + 64 * 48))

    said = 'window={size=3 pad=1_1}, dim_labels=bf0_oi0->bf0, custom_call_target="__cudnn$conv'
    x, kernel, y = "f32[2,4,10]", "f32[6,4,3]", "f32[2,6,10]"
    wanted = 2 * 2 * 28 * 4 * 6
    assert one(f'%c = ({y}, u8[0]) custom-call(%p0, %p1), {said}Forward"', x, kernel)[0] == wanted
    assert one(f'%c = ({x}, u8[0]) custom-call(%p0, %p1), {said}BackwardInput"', y, kernel)[0] == wanted
    assert one(f'%c = ({kernel}, u8[0]) custom-call(%p0, %p1), {said}BackwardFilter"', x, y)[0] == wanted


def test_attention_kernels():
    product = 2 * 8 * 4 * 256 * 256 * 64  # clips, heads, queries, keys, width
    scores = '{"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["8", "4", "256", "256"]}}'
    given = ["bf16[8,256,4,64]"] * 3
    call = "%c = (bf16[8,4,256,64], f32[8,4,256], u8[0]) custom-call(%p0, %p1, %p2), custom_call_target="
    assert one(f'{call}"__cudnn$fmhaSoftmax", backend_config={scores}', *given)[0] == 2 * product
    assert one(f'{call}"__cudnn$fmhaSoftmaxBackward", backend_config={scores}', *given)[0] == 5 * product

    given = ["s8[1,4,4]"] + ["bf16[8,4,256,64]"] * 3
    call = "= bf16[8,4,256,64] custom-call(%p0, %p1, %p2, %p3), custom_call_target="
    assert one(f'%splash_mha_fwd_segmented.3 {call}"tpu_custom_call"', *given)[0] == 2 * product
    assert one(f'%splash_mha_dkv_segmented {call}"tpu_custom_call"', *given)[0] == 5 * product
    assert one(f'%another_kernel {call}"tpu_custom_call"', *given)[0] == 0


@pytest.mark.parametrize(
    "line, operands, moved",
    [
        ("%x = f32[8] add(%p0, %p1)", ["f32[8]", "f32[8]"], 3 * 32),
        ("%x = f32[8] multiply(%p0, %p0)", ["f32[8]"], 2 * 32),
        ("%x = f32[8]{0:S(1)} add(%p0, %p1)", ["f32[8]", "f32[8]{0:S(1)}"], 32),
        ("%x = f32[2] slice(%p0), slice={[0:2]}", ["f32[800]"], 2 * 8),
        ("%x = f32[800] dynamic-update-slice(%p0, %p1, %p2)", ["f32[800]", "f32[2]", "s32[]"], 2 * 8),
        ("%x = ((f32[800]), f32[2]{0:S(1)}, s32[]{:S(2)}) slice-start(%p0), slice={[0:2]}", ["f32[800]"], 8),
        ("%x = (f32[8]{0:S(5)}, f32[8], u32[]{:S(2)}) copy-start(%p0)", ["f32[8]"], 32),
        ("%x = f32[8] copy-done(%p0)", ["(f32[8], f32[8], u32[]{:S(2)})"], 0),
        ("%x = f32[4,2] bitcast(%p0)", ["f32[8]"], 0),
        ('%x = f32[8] custom-call(), custom_call_target="AllocateBuffer"', [], 0),
        ("%x = (f32[8], f32[8]) all-reduce-start(%p0, %p1), to_apply=%add", ["f32[8]", "f32[8]"], 4 * 32),
        ("%x = (f32[8], f32[16]) all-gather-start(%p0), dimensions={0}", ["f32[8]"], 32 + 64),
    ],
)
def test_what_goes_through_memory(line, operands, moved):
    assert one(line, *operands)[1] == moved


def test_a_fusion_one_of_whose_results_is_a_tuple():
    text = """\
%fused (p: f32[8,4], q: s32[8,4]) -> ((f32[4], s32[4]), f32[8]) {
  %p = f32[8,4] parameter(0)
  %q = s32[8,4] parameter(1)
  %largest = (f32[4], s32[4]) reduce(%p, %q, %low, %zero), dimensions={0}, to_apply=%argmax
  %sum = f32[8] reduce(%p, %zero), dimensions={1}, to_apply=%add
  ROOT %all = ((f32[4], s32[4]), f32[8]) tuple(%largest, %sum)
}

ENTRY %main (p: f32[8,4], q: s32[8,4]) -> ((f32[4], s32[4]), f32[8]) {
  %p = f32[8,4] parameter(0)
  %q = s32[8,4] parameter(1)
  ROOT %x = ((f32[4], s32[4]), f32[8]) fusion(%p, %q), kind=kInput, calls=%fused
}
"""
    assert work(parse(text)).memory_bytes == 2 * 8 * 4 * 4 + (4 + 4 + 8) * 4


def test_what_a_collective_sends():
    text = """\
ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  %gathered = f32[32] all-gather(%x), dimensions={0}
  %scattered = f32[2] reduce-scatter(%x), dimensions={0}, to_apply=%add
  ROOT %sum = f32[8] all-reduce(%x), to_apply=%add
}
"""
    assert work(parse(text)).sent_bytes == 32 * 4 + 8 * 4 + 2 * 8 * 4


def test_the_slowest_of_the_three_is_the_bound():
    speeds = dict(peak_flops=100, bandwidth=10, network=1)
    product, copy, prefetch = Kernel(2, 200, 5, 0, True), Kernel(1, 0, 15, 0, True), Kernel(1, 0, 5, 2, False)
    assert roofline(Work([product, copy, prefetch]), **speeds) == {
        "seconds": 4,
        "bound_by": "operations",
        "operations_seconds": 4,
        "memory_seconds": 3,
        "network_seconds": 2,
        "kernel_by_kernel_seconds": 2 * 2 + 1.5,
    }
    assert roofline(Work([product, copy, copy, copy]), **speeds)["bound_by"] == "memory"
    assert roofline(Work([product, *[prefetch] * 3]), **speeds)["bound_by"] == "network"


def test_a_fusion_is_one_kernel():
    prefetch, layer = work(parse(LOOP)).kernels
    assert prefetch == Kernel(1, 0, 32 * 8 * 2, 0, waits=False)
    assert (layer.times, layer.operations, layer.waits) == (5, 2 * 32 * 8 * 16, True)


def test_a_compiled_scan_and_its_gradients():
    """By this machine's compiler: as many operations as the traced program has, and plausible traffic."""
    layers, rows, width = 7, 256, 128

    def chain(weights, x):
        step = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        return jax.lax.scan(step, x, weights)[0].sum()

    weights, x = jnp.ones((layers, width, width)), jnp.ones((rows, width))
    found = work(parse(jax.jit(jax.grad(chain)).lower(weights, x).compile().as_text()))
    product = 2 * rows * width * width  # forward, again, and with respect to x and to the weights
    assert found.operations == flops.count(jax.grad(chain), weights, x) == layers * 4 * product
    # The layer is read twice and its gradient written; its input is written once and read three times, its output's
    # gradient read and its input's written. How much more it is depends on what the compiler fuses.
    least = layers * (3 * weights[0].nbytes + 6 * x.nbytes)
    assert least < found.memory_bytes < 4 * least
