"""The options of a request, held against the model of the method or backend that they are for."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from harness.contract import Frozen, Scalar, did_you_mean
from harness.errors import BadRequest


class NoOptions(Frozen):
    """The options of a method or backend that has none."""


Options = TypeVar("Options", bound=Frozen)


def parse_options(model: type[Options], given: Mapping[str, Scalar], of: str) -> Options:
    """Validate the options of the method or backend called `of`, without converting between types.

    Raises:
        BadRequest: an option is unknown (the message names the nearest) or its value is not allowed.
    """
    known = model.model_fields
    for name in given:
        if name not in known:
            raise BadRequest(
                f"{of} has no option {name!r}{did_you_mean(name, known)}",
                hint=f"its options are: {', '.join(known)}" if known else "it has no options",
            )
    try:
        return model.model_validate(dict(given), strict=True)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        raise BadRequest(
            f"option {option!r} of {of} cannot be {first['input']!r}: {first['msg']}",
            hint="docs/methods.md and docs/backends.md list the options, their defaults and their ranges",
        ) from invalid
