"""The lists of source files that stages were made by: ten thousand results hold a few dozen different ones.

Such a list is nine tenths of a result's provenance and of what its key is the digest of. Each is read, and brought into
its canonical form, once; digests are those of the documents as they stand, to the last byte.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from harness.contract import canonical_json, digest_of
from orchestrator.store import versioned
from orchestrator.store.versioned import Document

_MATERIAL, _CODE = "material", "code"
_MOST_SHARED = 256
"""Lists that are kept, about 15 kB each."""
_STAND_IN = "the list of source files 5f0c1d0e8a3b4d4c9e7d2b6a1f3c8e90"
"""Stands in place of the list where the rest of a document is read or written."""
_WRITTEN_STAND_IN = json.dumps(_STAND_IN).encode()
_BEGIN = f'"{_CODE}": '.encode()


class SharedCode(dict[str, str]):
    """The sha256 of each source file by its name, which many stages refer to, and none may change."""

    @cached_property
    def canonical(self) -> bytes:
        return canonical_json(self)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("many stages share it: make a copy")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


def digest_of_material(material: Mapping[str, Any]) -> str:
    """`digest_of` what decides a stage's result."""
    code = material.get(_CODE)
    if not isinstance(code, SharedCode):
        return digest_of(material)
    return _digest({**material, _CODE: _STAND_IN}, code) or digest_of(material)


def digest_of_provenance(document: Mapping[str, Any]) -> str:
    """`digest_of` how a stored result came to be."""
    material = document.get(_MATERIAL)
    if not isinstance(material, dict) or not isinstance(code := material.get(_CODE), SharedCode):
        return digest_of(document)
    return _digest({**document, _MATERIAL: {**material, _CODE: _STAND_IN}}, code) or digest_of(document)


def _digest(document: Mapping[str, Any], code: SharedCode) -> str | None:
    """The digest with the list in place of what stands for it; None where something else of the document is that."""
    before, _, after = canonical_json(document).partition(_WRITTEN_STAND_IN)
    if _WRITTEN_STAND_IN in after:
        return None
    digest = hashlib.sha256(before)
    digest.update(code.canonical)
    digest.update(after)
    return digest.hexdigest()


def parse_provenance(content: bytes) -> Document:
    """`versioned.parse`, with the list by reference where it is written as this program does. Raises as that does."""
    begin = content.find(_BEGIN) + len(_BEGIN)
    end = content.find(b"}", begin) + 1
    if begin >= len(_BEGIN) and end and (code := _read(content[begin:end])) is not None:
        document = versioned.parse(content[:begin] + _WRITTEN_STAND_IN + content[end:])
        material = document.get(_MATERIAL)
        if isinstance(material, dict) and material.get(_CODE) == _STAND_IN:
            return {**document, _MATERIAL: {**material, _CODE: code}}
    return versioned.parse(content)


@lru_cache(maxsize=_MOST_SHARED)
def _read(text: bytes) -> SharedCode | None:
    """None where the text is not that of such a list."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(found, dict) and all(isinstance(one, str) for one in found.values())
    return SharedCode(found) if is_list else None
