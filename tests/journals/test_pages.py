import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import Invalid
from dispatcher.journals.pages import cursor_of, position_of


@given(st.integers(1, 2**63 - 1))
def test_a_cursor_leads_back_to_its_place(seq):
    assert position_of(cursor_of(seq)) == seq


@given(st.text().filter(lambda text: not (text.isascii() and text.isdigit())))
def test_anything_else_is_refused_with_the_field_to_blame(text):
    with pytest.raises(Invalid) as caught:
        position_of(text)
    assert caught.value.pointer == "/after"


@pytest.mark.parametrize("text", ["0", "00", str(2**63), "9" * 5000])
def test_numbers_that_sqlite_cannot_count_to_are_refused(text):
    with pytest.raises(Invalid):
        position_of(text)
