"""Arguments that a real library documents, as models that refuse any other."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Documented(BaseModel):
    """Arguments of the real library by name and type. Another name or type is a TypeError."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    def __init__(self, **arguments: Any) -> None:
        try:
            super().__init__(**arguments)
        except ValidationError as invalid:
            raise TypeError(f"{type(self).__name__}: {invalid}") from invalid
