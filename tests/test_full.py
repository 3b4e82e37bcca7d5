"""What `reproduce(full=True)` records is what the gallery draws from, and is found on a second call."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpanalysis import _full, open_run
from vpanalysis.figures import Sources, build_gallery
from vpanalysis.organism.untrained import UNTRAINED, untrained
from vpanalysis.reproduce import reproduce

MODELS = ["mini-base", "mini-static", "mini-pclm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full")
    reproduce(out, models=MODELS, limit=60, workers=1, full=True, progress=False)
    return out


def kept(folder: Path, name: str) -> set[str]:
    return {path.name.rsplit("-", 1)[0] for path in (folder / name / "results").iterdir()}


def test_every_part_is_kept_in_the_run_that_it_explains(folder: Path) -> None:
    assert {"listen", "patch", "fuse", "gap", "depth"} <= kept(folder, "mini-base")
    assert {"listen", "paraphrase"} <= kept(folder, "mini-pclm") and "fuse" not in kept(folder, "mini-pclm")
    for name in MODELS:
        turned = open_run(folder / f"{name}-reversed")
        assert turned.manifest["benchmark"]["name"] == "mini:reversed"
        assert set(turned.predictions["condition"].str.partition("/")[0]) == {"conflict"}
    assert Sources.of(folder).encoders == sorted(UNTRAINED)


def test_the_gallery_lacks_only_what_no_bundled_checkpoint_has(folder: Path, tmp_path: Path) -> None:
    made = build_gallery(folder, tmp_path / "figures", formats=["svg"], progress=False)
    # Natural speech does not come with the package, and 60 items are too few for folds of ten tasks.
    assert "natural_speech" in {error.what for error in made.lacking}
    others = [error for error in made.lacking if error.what != "natural_speech"]
    assert all("no task" in str(error) for error in others) and len(others) <= 4, others


def test_a_second_call_records_nothing_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpanalysis import attribution, probes

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    for name in ("listen_vs_read", "patch", "fuse_layers", "paraphrase"):
        monkeypatch.setattr(attribution, name, refused)
    for name in ("probe_layers", "probe_controls"):
        monkeypatch.setattr(probes, name, refused)
    reproduce(folder, models=MODELS, limit=60, workers=1, full=True, progress=False)


def test_what_is_expensive_comes_first_and_is_asked_of_who_has_it() -> None:
    parts = [part for name in MODELS for part in _full.parts_of(name, MODELS)]
    assert {part.name for part in parts if part.verb == "paraphrase"} == {"mini-static", "mini-pclm"}
    assert {part.name for part in parts if part.verb == "depth"} == {"mini-base"}
    assert [part.verb for part in _full.parts_of("mini-sft", ["mini-sft"])].count("depth") == 3


def test_untrained_encoders_are_called_that_and_are_the_same_every_time() -> None:
    one, other = untrained("untrained-hubert"), untrained("untrained-hubert")
    assert one.name == "untrained-hubert" and one.weights_sha == other.weights_sha
    assert one.weights_sha != untrained("untrained-hubert", seed=1).weights_sha
