"""The page about the endpoint, made of its OpenAPI description: it needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

CURL = "x-curl"
"""Of an operation: commands worth trying, with {base} for the address."""


class Value(NamedTuple):
    """A parameter, a field of a form or of an object."""

    name: str
    kind: str
    default: str
    description: str


class Operation(NamedTuple):
    """What can be asked for."""

    method: str
    path: str
    summary: str
    description: str
    curl: list[str]
    values: list[Value]
    responses: list[tuple[str, str, str]]  # status, what it means, what comes


def docs_page(openapi: Mapping[str, Any], base: str) -> str:
    """The page as HTML.

    Args:
        openapi: The OpenAPI description of the app.
        base: The address of the server.
    """
    operations = [
        _operation(path, method, operation, openapi, base)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = {
        name: (schema.get("description", ""), _fields(schema))
        for name, schema in openapi["components"]["schemas"].items()
        if not name.startswith("Body_")
    }
    return _template().render(operations=operations, schemas=schemas, info=openapi["info"])


def _operation(
    path: str, method: str, operation: Mapping[str, Any], openapi: Mapping[str, Any], base: str
) -> Operation:
    values = [
        Value(
            f"?{given['name']}",
            kind_of(given["schema"]),
            _default(given["schema"], given.get("required", False)),
            given.get("description") or given["schema"].get("description", ""),
        )
        for given in operation.get("parameters", [])
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        form = openapi["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        values = [*_fields(form), *values]
    responses = [
        (
            status,
            response["description"],
            " or ".join(
                f"{kind}: {kind_of(content['schema'])}" if "$ref" in content["schema"] else kind
                for kind, content in response.get("content", {}).items()
            ),
        )
        for status, response in operation["responses"].items()
    ]
    return Operation(
        method.upper(),
        path,
        operation["summary"],
        operation.get("description", ""),
        [command.format(base=base) for command in operation.get(CURL, [])],
        values,
        responses,
    )


def _fields(schema: Mapping[str, Any]) -> list[Value]:
    required = schema.get("required", [])
    return [
        Value(name, kind_of(held), _default(held, name in required), held.get("description", ""))
        for name, held in schema.get("properties", {}).items()
    ]


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return "" if default in (None, []) else str(default)


def kind_of(schema: Mapping[str, Any]) -> str:
    """The type of a value in words.

    Example:
        >>> kind_of({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
        'list of string or null'
    """
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(kind_of(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(choice) for choice in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        held = schema.get("items") or schema["prefixItems"][0]
        return f"list of {kind_of(held)}"
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    return str(schema.get("type", "any"))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("segkit.serve", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html.jinja")
