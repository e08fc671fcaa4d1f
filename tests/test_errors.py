from dispatcher.errors import Draining, first_of


def test_the_first_of_a_tree_of_errors_is_found_however_deep():
    error = Draining("it ends")
    assert first_of(error) is error
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [error, ValueError()]), OSError()])
    assert first_of(group) is error
