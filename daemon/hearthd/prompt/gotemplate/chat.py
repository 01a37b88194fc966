"""Conversations as values: the names, types and shapes that templates written for the Ollama API expect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from hearthd.prompt.conversation import Tool, ToolCall, ToolFunction, ToolParameters, ToolProperty, Turn
from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.printing import show
from hearthd.prompt.gotemplate.tools import PROPERTY, typescript
from hearthd.prompt.gotemplate.values import STRINGS, Image, List, Map, Record, Type, Value, of_json

_SHOWN: dict[str, Callable[[Run, Value], Value]] = {"String": show}

_MESSAGE = Type(name="template.templateMessage", is_pointer=True)
_MESSAGES = Type(name="[]*template.templateMessage", element="*template.templateMessage")
_IMAGES = Type(name="[]api.ImageData", element="api.ImageData")
_CALL = Type(name="template.templateToolCall")
_CALLS = Type(name="[]template.templateToolCall", element="template.templateToolCall")
_CALL_FUNCTION = Type(name="template.templateToolCallFunction")
_ARGUMENTS = Type(name="template.templateArgs", is_json=True, methods=_SHOWN)
_TOOLS = Type(name="template.templateTools", is_json=True, element="template.templateTool", methods=_SHOWN)
_TOOL = Type(
    name="template.templateTool",
    is_json=True,
    methods=_SHOWN,
    json_names={"Type": ("type", False), "Items": ("items", True), "Function": ("function", False)},
)
_FUNCTION = Type(
    name="template.templateToolFunction",
    is_json=True,
    json_names={
        "Name": ("name", False),
        "Description": ("description", False),
        "Parameters": ("parameters", False),
    },
)
_PARAMETERS = Type(
    name="template.templateToolFunctionParameters",
    is_json=True,
    json_names={
        "Type": ("type", False),
        "Defs": ("$defs", True),
        "Items": ("items", True),
        "Required": ("required", True),
        "Properties": ("properties", False),
    },
)
# the newest Ollama shows these as Go shows a struct, which no model was trained on; older ones showed JSON
_BARE_FUNCTION = msgspec.structs.replace(_FUNCTION, is_json=False)
_BARE_PARAMETERS = msgspec.structs.replace(_PARAMETERS, is_json=False)
_PROPERTIES = Type(name="template.templateProperties", is_json=True, element=PROPERTY, methods=_SHOWN)
_INNER_PROPERTIES = Type(name="api.ToolPropertiesMap", is_pointer=True, is_json=True, element=PROPERTY)
_PROPERTY = Type(
    name=PROPERTY,
    json_names={
        "AnyOf": ("anyOf", True),
        "Type": ("type", True),
        "Items": ("items", True),
        "Description": ("description", True),
        "Enum": ("enum", True),
        "Properties": ("properties", True),
        "Required": ("required", True),
    },
    methods={"ToTypeScriptType": lambda run, value: typescript(value)},
)
_CHOICES = Type(name="[]api.ToolProperty", element=PROPERTY)
_PROPERTY_TYPE = Type(name="api.PropertyType", element="string", unwraps=True, methods=_SHOWN)

_NO_IMAGES = List([], _IMAGES, is_nil=True)
_NO_CALLS = List([], _CALLS, is_nil=True)


def messages(turns: Iterable[Turn]) -> List:
    """.Messages"""
    return _list([_message(turn) for turn in turns], _MESSAGES)


def tools(given: Sequence[Tool], *, bare: bool = False) -> List:
    """.Tools; where `bare`, a function and its parameters show as Go shows structs, otherwise as JSON."""
    return _list([_tool(tool, bare) for tool in given], _TOOLS)


def root(entries: dict[str, Value]) -> Map:
    """The root of a render, by its names."""
    return Map({name: entries[name] for name in sorted(entries)})


def _list(items: list[Value], type: Type) -> List:
    return List(items, type, is_nil=not items)


def _message(turn: Turn) -> Record:
    return Record(
        _MESSAGE,
        {
            "Role": turn.role,
            "Content": turn.content,
            "Thinking": turn.thinking,
            "Images": List([Image(image) for image in turn.images], _IMAGES) if turn.images else _NO_IMAGES,
            "ToolCalls": List([_call(call) for call in turn.tool_calls], _CALLS) if turn.tool_calls else _NO_CALLS,
            "ToolName": turn.tool_name,
            "ToolCallID": turn.tool_call_id,
        },
    )


def _call(call: ToolCall) -> Record:
    arguments = Map({name: of_json(call.arguments[name]) for name in sorted(call.arguments)}, _ARGUMENTS)
    function = Record(_CALL_FUNCTION, {"Index": call.index, "Name": call.name, "Arguments": arguments})
    return Record(_CALL, {"ID": call.id, "Function": function})


def _tool(tool: Tool, bare: bool) -> Record:
    function = _function(tool.function, bare)
    return Record(_TOOL, {"Type": tool.type, "Items": of_json(tool.items), "Function": function})


def _function(function: ToolFunction, bare: bool) -> Record:
    return Record(
        _BARE_FUNCTION if bare else _FUNCTION,
        {
            "Name": function.name,
            "Description": function.description,
            "Parameters": _parameters(function.parameters, bare),
        },
    )


def _parameters(parameters: ToolParameters, bare: bool) -> Record:
    properties = parameters.properties
    return Record(
        _BARE_PARAMETERS if bare else _PARAMETERS,
        {
            "Type": parameters.type,
            "Defs": of_json(parameters.defs),
            "Items": of_json(parameters.items),
            "Required": _list(list(parameters.required), STRINGS),
            "Properties": Map({name: _property(properties[name]) for name in sorted(properties)}, _PROPERTIES),
        },
    )


def _property(given: ToolProperty) -> Record:
    types = [given.type] if isinstance(given.type, str) else list(given.type)
    inner = {name: _property(value) for name, value in given.properties.items()}
    return Record(
        _PROPERTY,
        {
            "AnyOf": _list([_property(choice) for choice in given.any_of], _CHOICES),
            "Type": _list(types, _PROPERTY_TYPE),
            "Items": of_json(given.items),
            "Description": given.description,
            "Enum": _list([of_json(value) for value in given.enum], Type(name="[]interface {}")),
            "Properties": Map(inner, _INNER_PROPERTIES) if inner else None,
            "Required": _list(list(given.required), STRINGS),
        },
    )
