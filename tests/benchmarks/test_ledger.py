"""The page of the benchmarks is the one made from the rows stored, and a race that is lost is named."""

import json

import pytest

from tests.benchmarks import ledger


def test_the_page_is_made_from_the_rows_stored():
    assert ledger.PAGE.read_text() == ledger.render(json.loads(ledger.STORE.read_text()))


class Clock:
    """Stands still except where a side of a race spends time."""

    now = 0.0

    def process_time(self):
        return self.now

    perf_counter = process_time

    def spend(self, seconds):
        self.now += seconds
        return seconds


@pytest.mark.parametrize(
    ("peer", "outcome"), [(0.5, "**lost**"), (8.0, "won, below the target"), (90.0, "won")]
)
def test_a_race_is_told_as_it_went(peer, outcome, tmp_path, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(ledger, "STORE", tmp_path / "results.json")
    monkeypatch.setattr(ledger, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(ledger, "time", clock)
    result = ledger.race("loops", "a peer", lambda: clock.spend(peer), lambda: clock.spend(1.0), 3, 50)
    assert result == (peer, peer, 1.0)
    row = json.loads(ledger.STORE.read_text())["races"]["loops"]
    assert row["outcome"] == outcome and row["CPU ratio"] == f"{peer:.3g} [{peer:.3g}, {peer:.3g}]"
    page = ledger.PAGE.read_text()
    assert f"| {outcome} |" in page and ("Races lost: loops." in page) == (outcome == "**lost**")
    assert "loops" in capsys.readouterr().out


def test_a_missing_peer_is_skipped_with_the_line_that_gets_it():
    with pytest.raises(pytest.skip.Exception, match="needs no_such_peer: pip install it"):
        ledger.peer("no_such_peer", "pip install it")


def test_ratios_against_the_official_code_are_bold_where_they_miss():
    key = "over the official one in float32"
    told = [ledger._told({key: value}, key) for value in ("0.97 [0.9, 1.1]", "1 [0.9, 1.1]", "")]
    assert told == ["**0.97 [0.9, 1.1]**", "1 [0.9, 1.1]", ""]
    row = {"ratio": "1.2 [1, 2]", "target": ">= 1.3", "speed": "0.5"}
    assert [ledger._told(row, key) for key in row] == ["**1.2 [1, 2]**", ">= 1.3", "0.5"]
