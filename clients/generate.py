"""The types of both clients from asyncapi.json: `python clients/generate.py`. It needs nothing but Python.

A changer must know: `python -m streams.asyncapi` writes asyncapi.json anew and then runs this; a test holds what is
committed to what these two would write.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = HERE / "python" / "calltide_client" / "messages.py"
TYPESCRIPT = HERE / "typescript" / "src" / "messages.ts"
HEAD = "What the gateway sends and takes. Generated from clients/asyncapi.json by clients/generate.py: do not edit."

Schema = dict[str, Any]


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _ordered(schemas: dict[str, Schema]) -> list[str]:
    """Names, each behind those that it needs."""
    found: list[str] = []

    def add(name: str) -> None:
        if name not in found:
            for needed in re.findall(r'#/components/schemas/(\w+)"', json.dumps(schemas[name])):
                if needed != name:
                    add(needed)
            found.append(name)

    for name in schemas:
        add(name)
    return found


def _alternatives(schema: Schema, one: Any) -> list[str]:
    return list(dict.fromkeys(one(each) for each in schema["anyOf"]))


def in_typescript(schema: Schema) -> str:
    """A schema as a type of TypeScript."""
    if "$ref" in schema:
        return _name(schema["$ref"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(json.dumps, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_alternatives(schema, in_typescript))
    if schema["type"] == "array":
        inner = in_typescript(schema["items"])
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if schema["type"] == "object":
        inner = in_typescript(schema["additionalProperties"])
        keys = in_typescript(schema["propertyNames"]) if "propertyNames" in schema else "string"
        return f"Partial<Record<{keys}, {inner}>>"
    return {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}[
        schema["type"]
    ]


def in_python(schema: Schema) -> str:
    """A schema as a type of Python."""
    if "$ref" in schema:
        return f'"{_name(schema["$ref"])}"' if _name(schema["$ref"]) == "Subscription" else _name(schema["$ref"])
    if "const" in schema:
        return f"Literal[{schema['const']!r}]".replace("'", '"')
    if "enum" in schema:
        return f"Literal[{', '.join(map(json.dumps, schema['enum']))}]"
    if "anyOf" in schema:
        return " | ".join(_alternatives(schema, in_python))
    if schema["type"] == "array":
        return f"list[{in_python(schema['items'])}]"
    if schema["type"] == "object":
        return f"dict[str, {in_python(schema['additionalProperties'])}]"
    return {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "None"}[schema["type"]]


def _fields(name: str, schema: Schema) -> dict[str, Schema]:
    """Of a subscription without the key: clients send that by themselves."""
    return {field: of for field, of in schema["properties"].items() if (name, field) != ("Subscription", "key")}


def _said(schema: Schema) -> str:
    return " ".join(schema.get("description", "").split())


def typescript(document: Schema) -> str:
    """The types of all messages and what they hold."""
    schemas = document["components"]["schemas"]
    lines = [f"// {HEAD}", ""]
    for name in _ordered(schemas):
        schema = schemas[name]
        if said := _said(schema):
            lines.append(f"/** {said} */")
        lines.append(f"export interface {name} {{")
        for field, of in _fields(name, schema).items():
            if said := _said(of):
                lines.append(f"  /** {said} */")
            optional = "" if field in schema.get("required", ()) else "?"
            lines.append(f"  {field}{optional}: {in_typescript(of)};")
        lines += ["}", ""]
    pushed = [_name(one["$ref"]) for one in document["operations"]["push"]["messages"]]
    lines += [
        "/** Whatever the gateway sends, told apart by `type`. */",
        f"export type Message = {' | '.join(pushed)};",
    ]
    return "\n".join(lines) + "\n"


def python(document: Schema) -> str:
    """The same as TypedDicts."""
    schemas = document["components"]["schemas"]
    lines = ["# fmt: off", "# ruff: noqa: E501", f'"""{HEAD}"""', ""]
    lines += ["from typing import Literal, NotRequired, TypedDict"]
    for name in _ordered(schemas):
        schema = schemas[name]
        required = schema.get("required", ())
        fields = {
            field: in_python(of) if field in required else f"NotRequired[{in_python(of)}]"
            for field, of in _fields(name, schema).items()
        }
        if name == "Subscription":
            # One of its fields is a word of Python's.
            lines += ["", "Subscription = TypedDict(", '    "Subscription",', "    {"]
            lines += [f'        "{field}": {of},' for field, of in fields.items()]
            lines += ["    },", ")", f'"""{_said(schema)}"""', ""]
            continue
        lines += ["", "", f"class {name}(TypedDict):"]
        if said := _said(schema):
            lines += [f'    """{said}"""', ""]
        for field, of in fields.items():
            comment = f"  # {said}" if (said := _said(schema["properties"][field])) else ""
            lines.append(f"    {field}: {of}{comment}")
    pushed = [_name(one["$ref"]) for one in document["operations"]["push"]["messages"]]
    lines += ["", "", f"Message = {' | '.join(pushed)}", '"""Whatever the gateway sends, told apart by `type`."""']
    return "\n".join(lines) + "\n"


def written() -> dict[Path, str]:
    """What has to be in which file."""
    document = json.loads((HERE / "asyncapi.json").read_text())
    return {PYTHON: python(document), TYPESCRIPT: typescript(document)}


if __name__ == "__main__":
    for path, text in written().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
