import pytest
from film_files import CLASSES

from primia.errors import DataError
from primia.imaging.tables import class_index, read_columns, read_table


def test_case_of_columns_semicolons_and_byte_order_mark_are_no_obstacle(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffFile; LABEL ;Patient\na.png; normal;P1\n\n".encode())
    table = read_table(path)
    assert read_columns(path) == table.columns == ("file", "label", "patient")
    assert [(r.line, r.cells["label"]) for r in table.rows] == [(2, "normal")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a,A\n", "twice"),
        (b"a,b\n1,2\n1\n", "line 3: 1 cells under 2 columns"),
        (b"a\n\xff\xfe\n", "UTF-8"),
        (b'a,b\n"x,1\n', "not CSV"),
        (b"a\n" + b"x" * 200_000, "not CSV"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_a_missing_table_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "none.csv")


def test_a_class_is_named_in_any_case_or_numbered():
    assert [class_index(t, CLASSES) for t in ("Normal", "VIRAL", "1")] == [0, 2, 1]


@pytest.mark.parametrize("text", ["1.0", "0.", "2e0.", "-1", "3", "pneumonia", "١", "9" * 30])
def test_anything_else_is_no_class(text):
    assert "write one of normal, bacterial, viral" in str(class_index(text, CLASSES))
    assert text not in str(class_index(text, CLASSES)).replace("0 to 2", "").split()


def test_a_decimal_label_is_called_so():
    assert "decimal number" in str(class_index("1.0", CLASSES))
