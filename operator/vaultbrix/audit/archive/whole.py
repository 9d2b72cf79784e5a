"""Check all sets of an archive, and that they follow each other."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from vaultbrix.audit.archive.check import Keys, Report, check_archive, check_days
from vaultbrix.audit.archive.columns import EVENT
from vaultbrix.audit.archive.leaves import Finding
from vaultbrix.audit.archive.manifest import NAME, SIGNATURE_NAME, BadManifest, current, decode, digest
from vaultbrix.audit.archive.place import Place
from vaultbrix.audit.erasure import covered


@dataclass
class Whole:
    """What the check of a whole archive found, with counts.

    ``uncovered``: redacted rows whose event is in none of the sets; the store may have it.
    """

    sets: int = 0
    rows: int = 0
    batches: int = 0
    unsealed: int = 0
    redacted: int = 0
    uncovered: int = 0
    findings: list[Finding] = field(default_factory=list)


def check(place: Place, *, exporters: Keys, shippers: Keys, progress: Callable[[str, int], None]) -> Whole:
    """Check every set that no later one replaces. Raises OSError where the place cannot be read."""
    whole, reports, events = Whole(), list[Report](), list[dict[str, object]]()
    manifests, folders = {}, {}
    for folder in place.sets():
        try:
            content = place.read(f"{folder}/{NAME}")
            manifest = decode(content)
        except FileNotFoundError:
            whole.findings.append(Finding(folder, "the manifest is missing"))
            continue
        except BadManifest as error:
            whole.findings.append(Finding(f"{folder}/{NAME}", str(error)))
            continue
        manifests[digest(content)], folders[digest(content)] = manifest, folder
    for name in current(manifests):
        report = _check_set(place, folders[name], exporters, shippers)
        whole.sets += 1
        whole.findings += [_placed(folders[name], finding) for finding in report.findings]
        if report.manifest is not None and not report.findings:
            events += _redactions(place, folders[name], report)
        reports.append(report)
        whole.rows += report.rows
        whole.batches += report.batches
        whole.unsealed += report.unsealed
        progress("sets", whole.sets)
        progress("rows", whole.rows)
    whole.findings += check_days(reports)
    covered_rows = covered(events)
    erased = {row for report in reports for row in report.redacted}
    whole.redacted, whole.uncovered = len(erased), sum(row not in covered_rows for row in erased)
    return whole


def _check_set(place: Place, folder: str, exporters: Keys, shippers: Keys) -> Report:
    try:
        signature = place.read(f"{folder}/{SIGNATURE_NAME}")
    except FileNotFoundError:
        return Report(None, [Finding(SIGNATURE_NAME, "the signature is missing")])
    content = place.read(f"{folder}/{NAME}")
    return check_archive(
        content, signature, lambda name: place.open(f"{folder}/{name}"), exporters=exporters, shippers=shippers
    )


def _placed(folder: str, finding: Finding) -> Finding:
    return Finding(f"{folder}/{finding.file}", finding.what, finding.server, finding.batch, finding.part)


def _redactions(place: Place, folder: str, report: Report) -> list[dict[str, object]]:
    assert report.manifest is not None
    details = []
    for file in report.manifest.files:
        if file.table != EVENT.name:
            continue
        with place.open(f"{folder}/{file.name}") as opened:
            rows = pq.read_table(opened, columns=["kind", "detail"]).to_pylist()
        details += [json.loads(row["detail"]) for row in rows if row["kind"] == "redacted"]
    return details
