"""The tables about the run itself: models, methods, stages, images."""

from orchestrator.report.formats import MISSING, count_text, key_text, seconds_text
from orchestrator.report.model import RunReport, StageEntry
from orchestrator.report.table import Cell, Table, cells, columns

NOT_RECORDED = "not recorded"
NO_KEY = "no key: the stage was never ready to run"


def model_table(report: RunReport) -> Table:
    rows = tuple(
        (
            *cells(model.name, model.source, model.family or model.name, model.architecture or "unknown"),
            Cell(count_text(model.parameter_count) if model.parameter_count else "unknown"),
            _digest(model.digest, "never fetched"),
        )
        for model in report.models
    )
    titles = columns("Model", "Source", "Family", "Architecture", numbers=("Parameters",))
    return Table("Models", (*titles, *columns("Checkpoint")), rows)


def variant_table(report: RunReport) -> Table:
    rows = tuple(
        cells(
            entry.variant.method or "dense",
            entry.variant.setting or "",
            entry.image or "none",
            entry.calibration or "none",
            "; ".join(entry.notes),
        )
        for entry in report.variants
    )
    return Table("Methods", columns("Method", "Setting", "Image", "Calibration", "Notes"), rows, headings=2)


def stage_table(report: RunReport) -> Table:
    rows = tuple(
        (
            *cells(stage.name, stage.operation, stage.status.value),
            Cell(MISSING if stage.wall_seconds is None else seconds_text(stage.wall_seconds)),
            _digest(stage.key, NO_KEY),
            *cells(_load_text(stage), _what_happened(stage), "; ".join(stage.notes)),
        )
        for stage in report.stages
    )
    titles = columns("Stage", "Operation", "Status", numbers=("Wall time",))
    return Table("Stages", (*titles, *columns("Key", "Machine meanwhile", "What happened", "Notes")), rows)


def _load_text(stage: StageEntry) -> str:
    """For instance `load 3.1, waiting 12 %, stolen 0 %; measured once more`."""
    if stage.load is None:
        return NOT_RECORDED
    load = stage.load
    parts = (
        None if load.load_average is None else f"load {load.load_average:.1f}",
        None if load.pressure_fraction is None else f"waiting {load.pressure_fraction:.0%}",
        None if load.steal_fraction is None else f"stolen {load.steal_fraction:.0%}",
    )
    text = ", ".join(part for part in parts if part is not None) or NOT_RECORDED
    return f"{text}; measured once more" if stage.repeated else text


def image_table(report: RunReport) -> Table:
    rows = tuple(
        cells(
            image.name,
            image.identity,
            ", ".join(f"{name} {version}" for name, version in sorted(image.libraries.items())) or "none recorded",
        )
        for image in report.provenance.images
    )
    return Table("Images", columns("Image", "Identity", "Libraries"), rows)


def provenance_facts(report: RunReport) -> tuple[tuple[str, str], ...]:
    """Names and values of what else identifies the run."""
    provenance = report.provenance
    origins = ((f"Data: {name}", origin) for name, origin in sorted(provenance.data_origins.items()))
    return (
        ("Run", report.run_id),
        ("Created", report.created.isoformat(timespec="seconds")),
        ("Scoring mode", report.scoring.mode.value),
        ("Runtime", report.runtime),
        ("Device", provenance.device_model),
        ("Driver", provenance.driver or "none"),
        ("Back ends", ", ".join(report.backends) or "none"),
        ("Version", provenance.version or NOT_RECORDED),
        ("Commit", provenance.commit or NOT_RECORDED),
        ("Harness", provenance.harness_digest),
        ("Manifest", provenance.manifest_digest or "none: built from command-line options"),
        ("Results", report.results_path),
        *origins,
    )


def reproducing(report: RunReport) -> tuple[str, ...]:
    """The commands that measure all of it again."""
    checkout = "" if report.provenance.commit is None else f"git checkout {report.provenance.commit} && "
    return (f"{checkout}make setup", ".venv/bin/orchestrator run manifest.yaml")


def _digest(digest: str | None, why_none: str) -> Cell:
    return Cell(why_none) if digest is None else Cell(key_text(digest), full=digest)


def _what_happened(stage: StageEntry) -> str:
    return " ".join(text for text in (stage.message, f"Hint: {stage.hint}" if stage.hint else "") if text)
