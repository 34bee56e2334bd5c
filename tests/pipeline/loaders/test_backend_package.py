import pytest

from simsiam.pipeline.errors import MissingError
from simsiam.pipeline.loaders.backend_package import backend_package


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (ModuleNotFoundError("No module named 'fast'"), ["swift", "No module named 'fast'", "pip install fast==1.2"]),
        (
            ImportError("cannot import name 'Loader'"),
            ["swift", "package fast ", "cannot import name 'Loader'", "Reinstall"],
        ),
        (OSError("libfast.so.2: no such file"), ["swift", "package fast ", "libfast.so.2", "Reinstall"]),
    ],
)
def test_an_import_that_fails_is_explained_in_one_sentence(error: Exception, parts: list[str]) -> None:
    with pytest.raises(MissingError) as caught, backend_package("swift", "fast==1.2"):
        raise error
    assert [part for part in parts if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_any_other_error_is_left_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), backend_package("swift", "fast==1.2"):
        raise ZeroDivisionError
