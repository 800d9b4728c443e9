"""Validates a crate against the Workflow Run Crate profile without a network. Runs where roc-validator is installed.

python validate_crate.py CRATE CONTEXT: CONTEXT is the JSON-LD context that rocrate ships, of RO-Crate 1.3. In that of
1.1 one term of those that are used here is another address, which is put in its place.
"""

import json
import sys
from pathlib import Path
from typing import Any

from requests import Response
from rocrate_validator import services
from rocrate_validator.models import Severity
from rocrate_validator.utils.http import HttpRequester

_ADDRESS = "https://w3id.org/ro/crate/1.1/context"


def main(crate: str, context: str) -> None:
    document = json.loads(Path(context).read_text("utf-8"))
    document["@context"]["ComputationalWorkflow"] = "https://bioschemas.org/ComputationalWorkflow"

    def get(requester: HttpRequester, url: str, **more: Any) -> Response:
        answer = Response()
        answer.status_code = 200 if url == _ADDRESS else 404
        answer.headers["Content-Type"] = "application/ld+json"
        answer._content = json.dumps(document).encode()
        return answer

    HttpRequester.get = get
    settings = services.ValidationSettings(
        rocrate_uri=crate,
        profile_identifier="workflow-run-crate-0.5",
        requirement_severity=Severity.REQUIRED,
        abort_on_first=False,
    )
    found = services.validate(settings)
    issues = [f"{issue.check.identifier}: {issue.message}" for issue in found.get_issues()]
    said = {"passed": found.passed(), "checks": len(found.executed_checks), "issues": issues}
    sys.stdout.write(f"{json.dumps(said)}\n")


main(*sys.argv[1:])
