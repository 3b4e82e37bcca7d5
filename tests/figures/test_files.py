"""Files of a figure: the right ones, type embedded as TrueType, equal byte for byte, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import gallery_demo
import matplotlib as mpl
import pandas as pd
import pytest
from PIL import Image

from vpanalysis.errors import RunError
from vpanalysis.figures import LackingError, Sources
from vpanalysis.figures._files import render, write_whole

HERE = Path(__file__).parent
ENTRIES = (gallery_demo.RICH, gallery_demo.TABLE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gallery_demo.write_run(tmp_path_factory.mktemp("runs") / "mini-base")


@pytest.fixture(scope="module")
def rendered(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered")
    for entry in ENTRIES:
        render(entry, Sources([run]), out)
    return out


def shas(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def pdf_text(path: Path) -> str:
    """Return a PDF with its compressed streams unpacked."""
    content = path.read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, flags=re.S)
    unpacked = []
    for stream in streams:
        try:
            unpacked.append(zlib.decompress(stream))
        except zlib.error:
            unpacked.append(stream)
    return (content + b"\n".join(unpacked)).decode("latin-1")


def test_a_figure_is_csv_and_three_pictures_and_a_table_is_latex_too(rendered: Path, run: Path, tmp_path: Path) -> None:
    assert set(shas(rendered)) == {
        *(f"demo_rich.{e}" for e in ("csv", "png", "pdf", "svg")),
        *(f"demo_table.{e}" for e in ("csv", "png", "pdf", "svg", "tex")),
    }
    paths = render(gallery_demo.RICH, Sources([run]), tmp_path / "new" / "folder", formats=["svg"])
    assert [path.name for path in paths] == ["demo_rich.csv", "demo_rich.svg"]
    assert all(path.is_file() for path in paths)


def test_the_csv_holds_the_numbers(rendered: Path) -> None:
    read = pd.read_csv(rendered / "demo_rich.csv")
    assert read["value"].tolist() == pytest.approx([0.25, 1 / 3, 0.5], abs=1e-9)
    assert read["planted"].tolist() == [True] * 3


def test_pictures_have_the_size_of_a_column_or_page_at_300_dpi(rendered: Path) -> None:
    for name, inches in (("demo_rich", (6.75, 2.0)), ("demo_table", (3.25, 1.0))):
        with Image.open(rendered / f"{name}.png") as picture:
            assert picture.size == tuple(round(300 * side) for side in inches)
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert "Software" not in picture.info
        points = re.search(r"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf_text(rendered / f"{name}.pdf"))
        assert points is not None
        assert [float(p) / 72 for p in points.groups()] == pytest.approx(inches, abs=0.01)


def test_type_is_embedded_as_truetype(rendered: Path) -> None:
    for path in rendered.glob("*.pdf"):
        text = pdf_text(path)
        assert "/FontFile2" in text
        assert "/Type3" not in text
        assert "/FontFile3" not in text and "/FontFile " not in text


def test_no_picture_names_a_day_or_a_program(rendered: Path) -> None:
    for path in rendered.iterdir():
        text = pdf_text(path) if path.suffix == ".pdf" else path.read_bytes().decode("latin-1")
        assert not re.search(r"CreationDate|ModDate|/Producer|/Creator|<dc:date>|<dc:creator>|Matplotlib", text), path


def test_two_processes_on_two_days_write_the_same_bytes(rendered: Path, run: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "late = time.time\n"
        "time.time = lambda: late() + 4e7\n"
        "import gallery_demo\n"
        "from vpanalysis.figures import Sources\n"
        "from vpanalysis.figures._files import render\n"
        "for entry in (gallery_demo.TABLE, gallery_demo.RICH):\n"
        "    render(entry, Sources([sys.argv[1]]), sys.argv[2])\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "SOURCE_DATE_EPOCH": "86400", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path)], check=True, env=environment, timeout=120)
    assert shas(tmp_path) == shas(rendered)


def test_a_second_time_in_one_process_writes_the_same_bytes_whatever_the_user_set(
    rendered: Path, run: Path, tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)
    with mpl.rc_context({"pdf.fonttype": 3, "svg.hashsalt": None, "savefig.dpi": 50, "font.size": 20}):
        render(gallery_demo.RICH, Sources([run]), tmp_path)
    assert dict(mpl.rcParams) == before
    wanted = {name: sha for name, sha in shas(rendered).items() if name.startswith("demo_rich.")}
    assert shas(tmp_path) == wanted


def test_styles_change_the_size_and_not_the_numbers(rendered: Path, run: Path, tmp_path: Path) -> None:
    render(gallery_demo.RICH, Sources([run]), tmp_path, style="slides", formats=("png",))
    with Image.open(tmp_path / "demo_rich.png") as picture:
        assert picture.size[0] > 1.3 * 300 * 6.75
    assert (tmp_path / "demo_rich.csv").read_bytes() == (rendered / "demo_rich.csv").read_bytes()


def test_what_is_unknown_is_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"the format 'pgn'.*did you mean 'png'"):
        render(gallery_demo.RICH, Sources([run]), out, formats=["pgn"])
    with pytest.raises(RunError, match="the format ''"):
        render(gallery_demo.RICH, Sources([run]), out, formats=[])
    with pytest.raises(RunError, match="the style 'papr'"):
        render(gallery_demo.RICH, Sources([run]), out, style="papr")
    with pytest.raises(LackingError, match="record it: vpanalysis run mini"):
        render(gallery_demo.RICH, Sources([]), out)
    assert not out.exists()


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "picture.pdf"
    path.write_bytes(b"old")

    def half(part: Path) -> Any:
        part.write_bytes(b"ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, half)
    assert [p.name for p in tmp_path.iterdir()] == ["picture.pdf"]
    assert path.read_bytes() == b"old"
