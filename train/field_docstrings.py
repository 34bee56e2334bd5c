"""Docstrings of fields: the string under each field of a dataclass, which help, reports and READMEs show."""

import functools
import inspect

from docstring_parser import parse_from_object


@functools.cache
def field_docstrings(owner: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, inherited ones included."""
    classes = reversed(owner.__mro__[:-1])
    found = [field for each in classes for field in parse_from_object(each).params]
    return {field.arg_name: inspect.cleandoc(field.description or "") for field in found}
