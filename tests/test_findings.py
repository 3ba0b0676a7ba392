"""A finding comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.cli.findings import write
from primia.errors import DataError
from primia.findings import Finding, Picture, Table, Verdict, from_json, to_json

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
text = st.text(max_size=30)
figures = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), text,
    st.floats(-1e15, 1e15),
)  # fmt: skip
tables = st.builds(
    lambda names, cells: Table(tuple(names), tuple(tuple(c for _ in names) for c in cells)),
    st.lists(text, max_size=4),
    st.lists(text, max_size=3),
)
findings = st.builds(
    Finding,
    command=text, title=text, question=text, verdict=st.sampled_from(Verdict), answer=text,
    limits=text, figures=st.dictionaries(text, figures, max_size=4),
    tables=st.lists(tables, max_size=2).map(tuple),
    pictures=st.lists(st.builds(Picture, text, text, st.just(PNG)), max_size=2).map(tuple),
    local=st.booleans(), seconds=st.floats(0, 1e6), made_at=st.floats(0, 1e10),
    plan=st.sampled_from(["", "0f" * 32]),
)  # fmt: skip


@given(findings)
def test_a_finding_is_read_back_as_it_was(finding: Finding) -> None:
    assert from_json(to_json(finding)) == finding


def example(**changes: object) -> Finding:
    terms = {"command": "attack x", "title": "t", "question": "q", "verdict": Verdict.HELD}
    return Finding(**{**terms, "answer": "a", "limits": "l", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken",
    [
        {"schema": "another/1"}, {"verdict": "proved"}, {"figures": {"a": [1]}}, {"extra": 1},
        {"pictures": [{"title": "", "words": "", "png": "bm90IGEgcG5n"}]}, {"seconds": "long"},
        {"tables": [{"columns": ["a"], "rows": [["1", "2"]]}]}, {"local": 1}, {"title": None},
        {"plan": None}, {"plan": "0F" * 32}, {"plan": "0f"},
    ],
)  # fmt: skip
def test_what_is_not_a_finding_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a finding"):
        from_json(json.dumps({**json.loads(to_json(example())), **broken}))


@pytest.mark.parametrize("rubbish", ["", "[]", "null", "{}", "[" * 100_000, '{"schema": NaN}'])
def test_rubbish_is_refused(rubbish: str) -> None:
    with pytest.raises(DataError, match="not a finding"):
        from_json(rubbish)


def test_a_figure_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(DataError, match="not finite"):
        to_json(example(figures={"auc": float("nan")}))


def test_pictures_of_a_hospitals_films_are_not_in_the_file_that_may_be_handed_on(
    tmp_path: Path,
) -> None:
    write(example(pictures=(Picture("film", "a film", PNG),), local=True), tmp_path)
    assert not from_json((tmp_path / "finding.json").read_text()).pictures
    assert (tmp_path / "picture-1.png").read_bytes() == PNG


def test_a_finding_of_before_plans_were_named_is_read() -> None:
    data = json.loads(to_json(example()))
    del data["plan"]
    assert from_json(json.dumps(data)) == example()
