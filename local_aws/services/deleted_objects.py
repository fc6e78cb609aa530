"""DeleteObjects that reports some keys in ``Errors``, with status 200, and keeps them: an ordered fault (DeletedObject)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

from local_aws.injected_faults import Faults
from local_aws.services import ministack_internals

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def install(faults: Faults) -> None:
    """Wrap ministack's DeleteObjects."""
    ElementTree.register_namespace("", NAMESPACE)
    ministack_internals.replace("s3", "_delete_objects", lambda original: _reporting(original, faults))


def _reporting(original: Callable[..., Any], faults: Faults) -> Callable[..., Any]:
    def delete(bucket: str, body: bytes, headers: Any = None) -> Any:
        request = ElementTree.fromstring(body)
        kept: dict[str, str] = {}
        for item in [element for element in request if element.tag.rpartition("}")[2] == "Object"]:
            key = next((part.text or "" for part in item if part.tag.rpartition("}")[2] == "Key"), "")
            fault = faults.take("DeletedObject", key)
            if fault is not None:
                kept[key] = fault.error or "InternalError"
                request.remove(item)
        if not kept:
            return original(bucket, body, headers)
        status, answer_headers, answer = original(bucket, ElementTree.tostring(request), headers)
        if status != 200:
            return status, answer_headers, answer
        result = ElementTree.fromstring(answer)
        for key, code in kept.items():
            error = ElementTree.SubElement(result, f"{{{NAMESPACE}}}Error")
            for name, text in (("Key", key), ("Code", code), ("Message", "We encountered an internal error. Please try again.")):
                ElementTree.SubElement(error, f"{{{NAMESPACE}}}{name}").text = text
        return status, answer_headers, ElementTree.tostring(result, xml_declaration=True, encoding="UTF-8")

    return delete
