"""The AsyncAPI document: whole in itself, and of the same messages as the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from importlib.resources import files
from typing import Any, get_args

import jsonschema
import msgspec

from streamer.core.protocol import Answer, Code, Format, Request
from tests.gateway.v1 import document

STRUCTS = {struct.__struct_config__.tag: struct for struct in (*get_args(Request), *get_args(Answer))}


def references(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for name, value in content.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(content, list):
        for value in content:
            yield from references(value)


def test_what_it_refers_to_is_in_it() -> None:
    found = set(references(document()))
    assert len(found) > 30
    for reference in found:
        start, *steps = reference.split("/")
        assert start == "#"
        reduce(lambda content, step: content[step], steps, document())


def test_it_has_what_an_asyncapi_document_must_have() -> None:
    content = document()
    assert content["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(content["info"])
    for operation in content["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"] == {"$ref": "#/channels/v1"}
        for each in (*operation["messages"], *operation.get("reply", {}).get("messages", [])):
            assert each["$ref"].startswith("#/channels/v1/messages/")
    for name in content["components"]["schemas"]:
        jsonschema.Draft7Validator.check_schema(content["components"]["schemas"][name])


def test_every_message_of_the_channel_is_in_an_operation() -> None:
    operations = document()["operations"].values()
    used = {reference.rsplit("/", 1)[1] for reference in references(list(operations)) if "/messages/" in reference}
    assert used == set(document()["channels"]["v1"]["messages"]) == set(document()["components"]["messages"])


def test_it_has_the_gateways_messages_with_their_fields() -> None:
    assert set(document()["components"]["messages"]) == {*STRUCTS, "updates"}
    for tag, struct in STRUCTS.items():
        schema = document()["components"]["schemas"][tag]
        fields = {field.encode_name: field.required for field in msgspec.structs.fields(struct)}
        assert set(schema["properties"]) == {"op", *fields}
        assert set(schema["required"]) == {"op", *(name for name, required in fields.items() if required)}


def test_it_has_the_gateways_codes_and_formats() -> None:
    assert document()["components"]["schemas"]["error"]["properties"]["code"]["enum"] == [code.value for code in Code]
    for format in Format:
        assert format.value in document()["channels"]["v1"]["description"]


def test_the_protocol_in_words_names_every_message_and_code() -> None:
    words = (files("streamer.gateway") / "PROTOCOL.md").read_text(encoding="utf-8")
    for word in (*STRUCTS, "updates", *(code.value for code in Code)):
        assert f"`{word}`" in words or f"### {word}\n" in words
