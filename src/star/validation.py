"""Recipes that refuse bad settings with one sentence instead of a validation trace."""

from __future__ import annotations

import difflib
import typing
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from star.errors import StarError


class CheckedModel(BaseModel):
    """A frozen pydantic model whose mistakes are `StarError`s.

    Unknown settings are refused. Models nest: a mistake inside a nested recipe is named by its
    full path (`training.tokens`). Validators in subclasses raise `StarError` or `ValueError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise StarError(explain(error, type(self))) from None

    # Without this mark pydantic builds nested models through `__init__`, and a nested mistake would lose its path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Like pydantic's, with `StarError` in place of `ValidationError`."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise StarError(explain(error, cls)) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Like pydantic's, with `StarError` in place of `ValidationError`."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            raise StarError(explain(error, cls)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated (pydantic's `model_copy(update=…)` does not validate)."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})


def listed(value: Any) -> Any:
    """A list as the command line writes it, one text with commas; anything else as it is."""
    return [part for part in map(str.strip, value.split(",")) if part] if isinstance(value, str) else value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The mistakes of `error` as one sentence: each setting, the value seen, what is allowed."""
    return "; ".join(_explain_one(dict(detail), model) for detail in error.errors())


def _explain_one(detail: dict[str, Any], model: type[BaseModel]) -> str:
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    kind = detail["type"]
    if kind == "extra_forbidden":
        allowed = list(_model_at(model, location[:-1]).model_fields)
        close = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"
        return f"unknown setting {name!r}: {hint}"
    if kind == "missing":
        return f"the setting {name!r} is missing: give it a value"
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
    else:
        message = f"{detail['input']!r} is not allowed ({detail['msg'][:1].lower()}{detail['msg'][1:]})"
    return f"{name}: {message}" if name else message


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The nested model class that `path` leads to; the last one that is known, where it leads astray."""
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        options = [annotation, *typing.get_args(annotation)]
        nested = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not nested:
            return model
        model = nested[0]
    return model
