"""Write the events' JSON Schemas to schemas/json/, unless that would break a reader of what is committed there.

`python -m schemas.generate` after a change of schemas/events.py. It refuses a change that a reader of the old version,
or a new reader of old records, could not live with: topics hold records of both for as long as their retention.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from schemas.events import EVENTS

DIRECTORY: Final = Path(__file__).parent / "json"

Schema = dict[str, Any]


def generated() -> dict[str, Schema]:
    """The JSON Schema of every kind of event, as its records are written."""
    return {kind: model.model_json_schema(mode="serialization") for kind, model in EVENTS.items()}


def text(schema: Schema) -> str:
    """A schema as it is committed."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def breaks(old: Schema, new: Schema) -> list[str]:
    """What in `new` breaks a reader or a writer of `old`, in words; empty when both get along.

    - an old reader of new records needs every property it knows, with no kind of value it has not seen;
    - a new reader of old records cannot ask for a property that they do not have, nor narrow what they may hold.
    """
    return list(_object_breaks("", old, new, old, new))


def _resolved(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def _object_breaks(path: str, old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before.keys() - after.keys():
        yield f"{path}{name} is gone: old readers may need it"
    # In a schema of what is written every property is required; one that a reader may miss has a default.
    for name in after.keys() - before.keys():
        if "default" not in after[name]:
            yield f"{path}{name} is new and has no default: new readers could not read old records"
    for name in before.keys() & after.keys():
        if "default" in before[name] and "default" not in after[name]:
            yield f"{path}{name} has lost its default: new readers could not read records without it"
        yield from _value_breaks(f"{path}{name}", before[name], after[name], old_root, new_root)


def _value_breaks(path: str, old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> Iterator[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    if "anyOf" in old or "anyOf" in new:
        before = [_resolved(one, old_root) for one in old.get("anyOf", [old])]
        after = [_resolved(one, new_root) for one in new.get("anyOf", [new])]
        if {one.get("type") for one in before} != {one.get("type") for one in after}:
            yield f"{path} may now hold other types than before"
            return
        by_type = {one.get("type"): one for one in before}
        for one in after:
            yield from _value_breaks(path, by_type[one.get("type")], one, old_root, new_root)
        return
    if old.get("type") != new.get("type"):
        yield f"{path} was {old.get('type')} and is {new.get('type')}"
        return
    values_before, values_after = _values(old), _values(new)
    if values_before != values_after:
        yield f"{path} could be {sorted(values_before)} and can be {sorted(values_after)}"
    for limit in ("minimum", "maximum", "minLength", "minItems"):
        if old.get(limit) != new.get(limit):
            yield f"{path} has another {limit}"
    if new.get("type") == "object":
        yield from _object_breaks(f"{path}.", old, new, old_root, new_root)
        inner = old.get("additionalProperties"), new.get("additionalProperties")
        if isinstance(inner[0], dict) and isinstance(inner[1], dict):
            yield from _value_breaks(f"{path}.*", inner[0], inner[1], old_root, new_root)
    if new.get("type") == "array" and "items" in old and "items" in new:
        yield from _value_breaks(f"{path}[]", old["items"], new["items"], old_root, new_root)


def _values(schema: Schema) -> set[str]:
    return {schema["const"]} if "const" in schema else set(schema.get("enum", ()))


def main() -> int:
    """Write the schemas; 1 if that would break somebody."""
    DIRECTORY.mkdir(exist_ok=True)
    faults = []
    for kind, schema in generated().items():
        path = DIRECTORY / f"{kind}.json"
        if path.exists():
            faults += [f"{kind}: {fault}" for fault in breaks(json.loads(path.read_text()), schema)]
    if faults:
        sys.stderr.write("not written, this would break readers:\n" + "".join(f"  {fault}\n" for fault in faults))
        return 1
    for kind, schema in generated().items():
        (DIRECTORY / f"{kind}.json").write_text(text(schema))
    return 0


if __name__ == "__main__":
    sys.exit(main())
