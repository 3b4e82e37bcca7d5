"""Work side by side: order, errors, threads, a bar that ends full. Every worker imports this file: keep it light."""

from __future__ import annotations

import os

import pytest

from vpanalysis._pool import Pool
from vpanalysis.errors import RunError


def _square(number: int) -> int:
    return number * number


def _fail(number: int) -> int:
    raise RunError("cannot square", found=str(number), fix="try another")


def _threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def _vanish() -> None:
    os._exit(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_pool_keeps_the_order(workers: int) -> None:
    with Pool(workers, progress=False) as pool:
        units = [(n,) for n in range(9)]
        assert pool.map(_square, units, desc="square", unit="number") == [n * n for n in range(9)]
        assert pool.map(_square, [], desc="square", unit="number") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_arrives_with_its_sentence(workers: int) -> None:
    with (
        pytest.raises(RunError, match="cannot square: found 3; try another"),
        Pool(workers, progress=False) as pool,
    ):
        pool.map(_fail, [(3,), (3,)], desc="square", unit="number")


def test_workers_keep_to_one_thread_and_leave_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Pool(2, progress=False) as pool:
        assert pool.map(_threads, [(), ()], desc="look", unit="worker") == ["1", "1"]
    assert _threads() == "7"


def test_a_worker_that_dies_is_reported_and_nothing_hangs() -> None:
    with pytest.raises(RunError, match="ended early"), Pool(2, progress=False) as pool:
        pool.map(_vanish, [()], desc="vanish", unit="worker")


def test_a_watched_bar_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    with Pool(2, progress=True) as pool:
        made = pool.map(_square, [(2,), (3,)], desc="square", unit="item", sizes=[10, 10], watch=lambda: 999)
    assert made == [4, 9]
    assert "20/20" in capsys.readouterr().err
