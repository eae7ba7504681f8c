from tadjax.profiling.collectives import Collective, collectives, totals
from tadjax.profiling.compiled_text import parse
from tadjax.profiling.roofline import work

PROGRAM = """\
HloModule step

%body.1 (p: (s32[], f32[2,12])) -> (s32[], f32[2,12]) {
  %p = (s32[], f32[2,12]) parameter(0)
  %x = f32[2,12]{1,0} get-tuple-element(%p), index=1
  %halo = f32[2,12]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1}}
  ROOT %t = (s32[], f32[2,12]) tuple(%i, %halo)
}

%outer (p: (s32[], f32[2,12])) -> (s32[], f32[2,12]) {
  ROOT %w = (s32[], f32[2,12]) while(%p), condition=%less, body=%body.1, backend_config={"known_trip_count":{"n":"5"}}
}

%less (p: (s32[], f32[2,12])) -> pred[] {
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%below (p: (s32[], f32[2,12])) -> pred[] {
  %n = s32[]{:T(128)} constant(8)
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[2,12]) -> f32[8,12] {
  %loop = (s32[], f32[2,12]) while(%a), condition=%below, body=%outer
  %g = (bf16[2,12]{1,0}, bf16[8,12]{1,0}) all-gather-start(%b), dimensions={0}
  %done = bf16[8,12]{1,0} all-gather-done(%g)
  ROOT %sum = (f32[10]{0}, f32[3]{0}) all-reduce(%u, %v), to_apply=%add
}
"""


def test_loops_are_multiplied_out():
    found = collectives(parse(PROGRAM))
    assert sorted(found) == [
        Collective("all-gather", 8 * 12 * 2, 1),
        Collective("all-reduce", 13 * 4, 1),
        Collective("collective-permute", 2 * 12 * 4, 40),
    ]
    assert totals(found) == {
        "all-gather": {"count": 1, "bytes": 192},
        "all-reduce": {"count": 1, "bytes": 52},
        "collective-permute": {"count": 40, "bytes": 3840},
    }


CHAIN = """\
%start (a: bf16[2]) -> bf16[8] {
  %a = bf16[2] parameter(0)
  %g.1 = bf16[8]{0} all-gather(%a), channel_id=7, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %t.1 = (bf16[8], bf16[2]) tuple(%g.1, %a)
}

%behind (a: bf16[2], b: f32[4]) -> bf16[8] {
  %a = bf16[2] parameter(0)
  %b = f32[4] parameter(1)
  %g.2 = bf16[8]{0} all-gather(%a), channel_id=7, dimensions={0}, frontend_attributes={chain_id="0"}
  %g.3 = bf16[4]{0} all-gather(%a), channel_id=8, dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %t.2 = (bf16[8], bf16[4]) tuple(%g.2, %g.3)
}

%once_a_layer (a: bf16[2]) -> bf16[2] {
  %a = bf16[2] parameter(0)
  %b = f32[4] constant({1, 2, 3, 4})
  %f.1 = (bf16[8], bf16[2]) fusion(%a), kind=kCustom, calls=%start
  %f.2 = (bf16[8], bf16[4]) fusion(%a, %b), kind=kCustom, calls=%behind
  ROOT %f.3 = (bf16[8], bf16[4]) fusion(%a, %b), kind=kCustom, calls=%behind
}

ENTRY %main (a: bf16[2]) -> bf16[2] {
  %first = bf16[2] while(%a), condition=%less, body=%once_a_layer, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %second = bf16[2] while(%first), condition=%less, body=%once_a_layer
}
"""


def test_one_that_goes_on_behind_other_kernels_counts_once():
    assert totals(collectives(parse(CHAIN))) == {"all-gather": {"count": 2 * (3 + 1), "bytes": (16 + 8) * (3 + 1)}}
    assert work(parse(CHAIN)).sent_bytes == (16 + 8) * (3 + 1)


def test_a_program_for_one_device_has_none():
    text = "ENTRY %main (a: f32[2]) -> f32[2] {\n  ROOT %b = f32[2]{0} add(%a, %a)\n}\n"
    assert collectives(parse(text)) == []
