"""Everything of a run that scores and reports are made of, read from the store and checked once."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from harness.contract import ResultEvent, unknown
from harness.contract.text import showable, unshowable, unshowable_in
from orchestrator.errors import BadManifest
from orchestrator.evidence.baselines import Baseline, run_baselines
from orchestrator.evidence.categories import Category, run_categories
from orchestrator.evidence.collecting import collect, expectations, memories, printed_figures, with_intervals
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.fidelity import RunFidelity, run_fidelity
from orchestrator.evidence.measured import StageFigures, measured_figures
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Values, Variant
from orchestrator.figures.outcomes import Outcomes
from orchestrator.images.catalog import ImageCatalog
from orchestrator.store import RunRecord, StageRecord, Store
from orchestrator.store.imported import Imported
from orchestrator.tracks import Expectation

_ESCAPED = re.compile(r"\\[^\"]")
"""What JSON writes for a control character, and for a backslash."""


@dataclass(frozen=True)
class Evidence:
    """`variants` begins with dense. `checkpoints` has the digest of each dense model that something was measured of,
    `outcomes` the items' outcomes behind the values whose `source` is the key. `draws` is None where nothing was
    resampled. `results` are the finished stages by their names, `measured` all that they hold, `baselines` the variants
    that a variant has to beat, `categories` those of the paper's Table 5. `memories` are by what measured them, a
    backend or the profile, which is their part; the one that counts in track 4 is among `values`, too. `fidelity` has
    how far each compressed model is from the dense one. `imported` are figures of others, which are
    among none of these."""

    run: str
    device: str
    variants: tuple[Variant, ...]
    checkpoints: Mapping[str, str]
    expectations: tuple[Expectation, ...]
    values: Values
    outcomes: Mapping[str, Outcomes]
    draws: Draws | None = None
    results: Mapping[str, StageRecord] = field(default_factory=dict)
    baselines: Mapping[Variant, tuple[Baseline, ...]] = field(default_factory=dict)
    measured: tuple[StageFigures, ...] = ()
    categories: Mapping[Variant, Category] = field(default_factory=dict)
    memories: Values = field(default_factory=Values)
    fidelity: RunFidelity = field(default_factory=RunFidelity)
    imported: tuple[Imported, ...] = ()

    def variant(self, name: str) -> Variant:
        """The variant with this label, also as stages write it (`wanda-50%`), or the only one of this method.

        Raises:
            BadManifest: there is none, or several settings of the method.
        """
        labels = {variant.label: variant for variant in self.variants}
        wanted = " ".join(name.split())
        as_in_stages = {label.replace(" ", "-"): variant for label, variant in labels.items()}
        if exact := labels.get(wanted) or as_in_stages.get(wanted):
            return exact
        found = [variant for variant in self.variants if variant.method == wanted]
        if len(found) > 1:
            settings = ", ".join(repr(variant.label) for variant in found)
            raise BadManifest(f"the run has {wanted} at {len(found)} settings", hint=f"name one of: {settings}")
        if not found:
            raise BadManifest(unknown("variant", wanted, labels), hint=f"the run has: {', '.join(map(repr, labels))}")
        return found[0]


def read_evidence(
    record: RunRecord, store: Store, catalog: ImageCatalog, resampling: Resampling | None = None
) -> Evidence:
    """What a run found, complete or not; with `resampling`, its values have intervals.

    Raises:
        Unreadable: a stored result is damaged, or not what its parts give; see `stored_results`.
    """
    results = stored_results(record, store)
    outcomes = _outcomes(results, store)
    values = collect(record, results, outcomes, catalog)
    draws = None
    if resampling is not None:
        draws = Draws(printed_figures(record, results, outcomes, catalog), outcomes, resampling, values)
        values = with_intervals(values, draws)
    return Evidence(
        run=record.run,
        device=record.device_model,
        variants=(DENSE, *compressed_variants(record)),
        checkpoints=_checkpoints(record, results),
        expectations=expectations(record, results, catalog),
        values=values,
        outcomes=outcomes,
        draws=draws,
        results=results,
        baselines=run_baselines(record, results, catalog),
        measured=measured_figures(record, results),
        categories=run_categories(record, catalog),
        imported=store.imported.of(record.run),
        memories=memories(record, results),
        fidelity=run_fidelity(record, results, outcomes, store),
    )


def stored_results(record: RunRecord, store: Store) -> dict[str, StageRecord]:
    """The finished stages of a run, by their names. What was found out is known without its checkpoints.

    Raises:
        Unreadable: a stored result is damaged; see `orchestrator.store.history.open_run`, which passes over it.
    """
    found = {}
    for name, state in record.stages.items():
        stored = store.read(state.key) if state.key is not None and state.has_result else None
        if stored is not None:
            found[name] = _showable(stored)
    return found


def _showable(stored: StageRecord) -> StageRecord:
    """The result without control characters, which results of former versions may hold."""
    with suppress(ValueError):  # half a surrogate pair, which is no text to be written
        if _ESCAPED.search(written := stored.final.model_dump_json()) is None and unshowable(written) is None:
            return stored
    document = stored.final.model_dump(mode="json")
    if next(unshowable_in(document), None) is None:
        return stored
    return stored.model_copy(update={"final": ResultEvent.model_validate(showable(document))})


def compressed_variants(record: RunRecord) -> tuple[Variant, ...]:
    subjects = (state.subject for state in record.stages.values() if state.subject is not None)
    return tuple(dict.fromkeys(Variant.of(one) for one in subjects if one.method))


def _checkpoints(record: RunRecord, results: Mapping[str, StageRecord]) -> dict[str, str]:
    """By the stages that read the dense model: its own files may have been cleaned away since."""
    digests = {}
    for name, stage in results.items():
        subject = record.stages[name].subject
        read = stage.provenance.material.get("inputs", {}).get("checkpoint")
        if subject is not None and subject.method is None and read is not None:
            digests[subject.model] = str(read)
    return digests


def _outcomes(results: Mapping[str, StageRecord], store: Store) -> dict[str, Outcomes]:
    found = {stage.provenance.key: store.outcomes.of(stage) for stage in results.values()}
    return {source: outcomes for source, outcomes in found.items() if outcomes is not None}
