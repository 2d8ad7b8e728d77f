"""The settings' page is made from the settings."""

from stacks.settings import Settings, context_key, variable
from stacks.settings_reference import PAGE, page


def test_the_page_in_the_docs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make settings-reference`"


def test_every_setting_has_a_row_with_key_variable_and_description() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(Settings.model_fields)
    for row, (name, field) in zip(rows, Settings.model_fields.items(), strict=True):
        assert row.startswith(f"| `{context_key(name)}` | `{variable(name)}` |")
        assert str(field.description).replace("|", "\\|") in row


def test_a_number_has_its_bounds_and_its_unit() -> None:
    (row,) = (line for line in page().splitlines() if "`probeIntervalSeconds`" in line)
    assert "| `2` |  | ≥ 0.2, ≤ 30 | s |" in row
    (row,) = (line for line in page().splitlines() if "`allocatedStorage`" in line)
    assert "≥ 20, ≤ 16384 | GiB |" in row
