"""docs/claims.md: its table is what the files beside it give, and the paper's claims come out of the paper's tables."""

from benchmarks.claims_page import PAGE, columns, page, paper_evidence
from orchestrator.installation import PAPER_CLAIMS, shipped_claims
from orchestrator.score.claims import Verdict, judge
from orchestrator.score.claims_file import read_claims


def test_every_claim_of_the_paper_comes_out_of_its_own_tables() -> None:
    document = judge(read_claims(shipped_claims()[PAPER_CLAIMS]), paper_evidence())
    assert {one.name: one.verdict for one in document.findings if one.verdict is not Verdict.HOLDS} == {}
    assert len(document.findings) >= 16


def test_the_table_of_the_page_is_made_of_what_was_measured() -> None:
    text = PAGE.read_text("utf-8")
    assert page(text, columns()) == text, "run: python benchmarks/claims_page.py"
