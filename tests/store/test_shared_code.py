"""Lists of source files are read once for all results, and no byte of any result is taken for another's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import digest_of
from orchestrator.store import versioned
from orchestrator.store.shared_code import (
    _STAND_IN,
    SharedCode,
    digest_of_material,
    digest_of_provenance,
    parse_provenance,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"code": {', "}", "code", "material", _STAND_IN, '\\"code": {"', "é"]
)
CODES = st.dictionaries(NAMES, NAMES, max_size=4)
PLAIN = st.none() | st.integers() | NAMES
DOCUMENTS = st.fixed_dictionaries(
    {"material": st.fixed_dictionaries({"code": CODES, "operation": PLAIN}, optional={"inputs": CODES})},
    optional={"code": PLAIN | CODES, "stage": PLAIN, "files": st.dictionaries(NAMES, CODES, max_size=2)},
)


@given(DOCUMENTS, st.booleans())
def test_a_provenance_is_read_as_it_is_written_and_has_the_digest_of_its_canonical_form(
    document: dict[str, Any], ascii_alone: bool
) -> None:
    content = json.dumps(document, ensure_ascii=ascii_alone).encode()
    read = parse_provenance(content)
    assert read == versioned.parse(content) == document
    assert digest_of_provenance(read) == digest_of_provenance(document) == digest_of(document)
    material = document["material"]
    assert digest_of_material(read["material"]) == digest_of_material(material) == digest_of(material)


def sealed(code: dict[str, str]) -> bytes:
    return json.dumps(versioned.sealed({"schema_version": 2, "material": {"code": code}})).encode()


def test_a_list_that_many_results_hold_is_one() -> None:
    one, other = (parse_provenance(sealed({"a.py": "0" * 64})) for _ in range(2))
    assert isinstance(one["material"]["code"], SharedCode)
    assert one["material"]["code"] is other["material"]["code"]
    with pytest.raises(TypeError, match="make a copy"):
        one["material"]["code"]["a.py"] = "1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"a.py": "00', b'"a.py": "01'),
        (b'"code": {', b'"code": {"b.py": "1", '),
        (b'"code": {', b'"code": 1, "code": {"c": "1"}, "c": {'),
    ],
)
def test_a_list_that_is_not_what_was_sealed_is_found(before: bytes, after: bytes) -> None:
    content = sealed({"a.py": "0" * 64})
    assert versioned.unsealed(parse_provenance(content), digest_of_provenance)
    spoilt = content.replace(before, after)
    with pytest.raises(ValueError, match="does not have the sha256"):
        versioned.unsealed(parse_provenance(spoilt), digest_of_provenance)


def test_of_a_list_that_stands_twice_the_last_one_counts_as_for_any_reader() -> None:
    content = sealed({"a.py": "0" * 64}).replace(b'"material": {', b'"material": {"code": {"b.py": "1"}, ')
    assert parse_provenance(content) == versioned.parse(content)


@pytest.mark.parametrize("content", [b"", b'{"material": {"code": {', b'{"material": {"code": {}', b'["code": {}]'])
def test_what_is_no_document_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_provenance(content)
