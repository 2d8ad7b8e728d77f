"""The baseline's list, and the names of controls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assessment import baseline

CONTROLS = st.sampled_from(baseline.controls())


def test_the_baseline_has_every_control_once_with_a_family_and_a_title() -> None:
    found = baseline.controls()
    # FedRAMP Rev 5 Moderate: 323 controls and enhancements
    assert len(found) == len({each.id for each in found}) == 323
    assert all(each.title and each.family for each in found)
    assert len({each.family for each in found}) == 18


@given(control=CONTROLS)
def test_a_label_names_its_control(control: baseline.Control) -> None:
    assert baseline.named(control.label) == (control.id,)


@given(found=st.lists(CONTROLS, min_size=1, unique=True))
def test_a_list_names_each_of_its_controls_once_and_in_order(found: list[baseline.Control]) -> None:
    text = ", ".join(each.label for each in (*found, *found))
    assert baseline.named(text) == tuple(each.id for each in found)


def test_parts_are_left_out_and_several_enhancements_of_one_control_are_told_apart() -> None:
    assert baseline.named("CP-9(b), AU-6(1)(3), CA-7(a)(b)") == ("cp-9", "au-6.1", "au-6.3", "ca-7")


@pytest.mark.parametrize("text", ["", "AC", "ac-2", "AC-2 (4)", "AC-2,AC-3", "AC-2(4"])
def test_what_names_no_control_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="names no control"):
        baseline.named(text)
