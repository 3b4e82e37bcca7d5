import pytest

from vpanalysis.capture.sites import clock_of, group_of, select_sites
from vpanalysis.errors import RunError

SITES = [
    "encoder.stem", *(f"encoder[{i}]" for i in range(12)), "tower", "streams[0]", "streams[1]", "mixed",
    "text.embed", "text[0]", "text[1]", "gate", "options",
]  # fmt: skip


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, SITES),
        ("tower", ["tower"]),
        ("encoder[*]", [f"encoder[{i}]" for i in range(12)]),
        ("encoder[1]", ["encoder[1]"]),
        ("text[-1]", ["text[1]"]),
        ("encoder[10:]", ["encoder[10]", "encoder[11]"]),
        ("encoder[-2:]", ["encoder[10]", "encoder[11]"]),
        (["text[-1]", "encoder.stem"], ["encoder.stem", "text[1]"]),
        ("text", ["text.embed", "text[0]", "text[1]"]),
        ("streams", ["streams[0]", "streams[1]"]),
        ("encoder", SITES[:14]),
        (lambda name: name.endswith("xed"), ["mixed"]),
        ("*e?t[0]", ["text[0]"]),
    ],
)
def test_selectors_in_the_order_of_the_model(selector, expected):
    assert select_sites(SITES, selector) == expected


@pytest.mark.parametrize(
    "selector", ["encodr[1]", "encoder[12]", "encoder[-13]", "text[5:]", ["tower", "nope"], lambda _: False]
)
def test_what_matches_nothing_is_an_error_that_lists_sites(selector):
    with pytest.raises(RunError, match=r"cannot select sites.*allowed: 'encoder.stem'"):
        select_sites(SITES, selector)


def test_a_near_miss_is_suggested():
    with pytest.raises(RunError, match=r"did you mean 'tower'\?"):
        select_sites(SITES, "towr")


def test_clocks_and_groups():
    assert [clock_of(s) for s in ("encoder.stem", "encoder[3]", "tower", "streams[0]", "mixed", "projector")] == [
        "encoder", "encoder", "tower", "audio", "audio", "audio",
    ]  # fmt: skip
    assert clock_of("text.embed") == "text" and clock_of("gate") is None and clock_of("options") is None
    assert group_of("tower") == "encoder" and group_of("projector") == "audio"
    with pytest.raises(RunError, match="cannot place the site"):
        group_of("decoder[0]")
