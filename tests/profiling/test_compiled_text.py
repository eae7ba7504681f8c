import pytest

from tadjax.profiling.compiled_text import Array, parse, walk

PROGRAM = """\
HloModule step, is_scheduled=true

%fused (p: f32[4,8], q: f32[8,2]) -> f32[4,2] {
  %p = f32[4,8]{1,0} parameter(0)
  %q = f32[8,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,2]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (t: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %t = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %product = f32[4,2]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %total = f32[] reduce(%product, %zero), dimensions={0,1}, to_apply=%add
  ROOT %u = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%n, %x)
}

%below (t: (s32[], f32[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}

%outer (t: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %kernel = f32[4]{0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}
  ROOT %inner = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) while(%t), condition=%below, body=%body
}

%left (x: f32[2]) -> f32[2] {
  ROOT %negated = f32[2]{0} negate(%x)
}

ENTRY %main (x: f32[4,8]) -> (s32[], f32[4,8]) {
  %x = f32[4,8]{1,0} parameter(0)
  %either = (f32[2]{0}, /*index=1*/s32[]) conditional(%i, %a, %b), branch_computations={%left, %add}
  %loop = (s32[], f32[4,8]) while(%start), condition=%less, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %result = (s32[], f32[4,8]) while(%loop), condition=%strange, body=%left
}
"""


def test_instructions_are_read_with_their_results_and_operands():
    program = parse(PROGRAM)
    assert program.entry == "main" and list(program.computations)[-2:] == ["left", "main"]
    either = program.computations["main"]["either"]
    assert (either.opcode, either.operands, either.root) == ("conditional", ["i", "a", "b"], False)
    assert either.arrays == [Array("f32", (2,), "{0}"), Array("s32", (), "")]
    assert either.called() == [("branch_computations", "left"), ("branch_computations", "add")]
    assert program.computations["outer"]["kernel"].shape == "f32[4]{0}"


def test_loops_are_multiplied_out():
    times = {run.instruction.name: run.times for run in walk(parse(PROGRAM))}
    assert (times["loop"], times["inner"], times["kernel"], times["total"], times["less"]) == (1, 5, 5, 40, 40)
    assert times["dot.1"] == 40
    assert "u" in times and times["u"] == 40


def test_a_branch_counts_its_share_and_a_strange_loop_once():
    runs = list(walk(parse(PROGRAM)))
    assert [run.times for run in runs if run.instruction.name == "negated"] == [0.5, 1]
    assert [run.times for run in runs if run.instruction.name == "sum"] == [0.5], "a reduction's sum is no instruction"


def test_what_is_in_a_fusion_is_known_to_be():
    assert {run.instruction.name for run in walk(parse(PROGRAM)) if run.fused} == {"p", "q", "dot.1"}


@pytest.mark.parametrize(
    "shape, size, stored, space",
    [
        ("bf16[8,2048,88]{2,1,0:T(8,128)(2,1)S(1)}", 8 * 2048 * 88 * 2, 8 * 2048 * 128 * 2, 1),
        ("f32[39,1408,352]{1,2,0:T(8,128)}", 39 * 1408 * 352 * 4, 39 * 1408 * 352 * 4, 0),
        ("u8[3,10]{0,1:T(8,128)(4,1)S(5)}", 30, 16 * 128, 5),
        ("pred[300]{0:T(512)(128)(4,1)}", 300, 512, 0),
        ("s32[]{:T(128)}", 4, 512, 0),
        ("f64[3,5]{1,0}", 120, 120, 0),
        ("s4[6]", 6, 6, 0),
    ],
)
def test_bytes_of_an_array(shape, size, stored, space):
    (array,) = parse(f"ENTRY %main () -> x {{\n  ROOT %x = {shape} iota()\n}}\n").computations["main"]["x"].arrays
    assert (array.bytes, array.stored_bytes, array.space) == (size, stored, space)
