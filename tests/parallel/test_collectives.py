from tadjax.parallel.collectives import Collective, collectives, totals
from tadjax.program import parse

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


def test_a_program_for_one_device_has_none():
    text = "ENTRY %main (a: f32[2]) -> f32[2] {\n  ROOT %b = f32[2]{0} add(%a, %a)\n}\n"
    assert collectives(parse(text)) == []
