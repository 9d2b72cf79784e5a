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
    """What was checked. ``uncovered``: redacted rows whose event is in none of these sets; the store may have it."""

    sets: int = 0
    rows: int = 0
    batches: int = 0
    unsealed: int = 0
    redacted: int = 0
    uncovered: int = 0
    findings: list[Finding] = field(default_factory=list)


def check(place: Place, *, exporters: Keys, shippers: Keys, progress: Callable[[str, int], None]) -> Whole:
    """Check every set that no later one replaces. Raises OSError where the place cannot be read."""
    found, reports, events = Whole(), list[Report](), list[dict[str, object]]()
    manifests, folders = {}, {}
    for folder in place.sets():
        try:
            content = place.read(f"{folder}/{NAME}")
            manifest = decode(content)
        except FileNotFoundError:
            found.findings.append(Finding(folder, "the manifest is missing"))
            continue
        except BadManifest as error:
            found.findings.append(Finding(f"{folder}/{NAME}", str(error)))
            continue
        manifests[digest(content)], folders[digest(content)] = manifest, folder
    for name in current(manifests):
        report = _check_set(place, folders[name], exporters, shippers)
        found.sets += 1
        found.findings += [_placed(folders[name], finding) for finding in report.findings]
        if report.manifest is not None and not report.findings:
            events += _redactions(place, folders[name], report)
        reports.append(report)
        found.rows += report.rows
        found.batches += report.batches
        found.unsealed += report.unsealed
        progress("sets", found.sets)
        progress("rows", found.rows)
    found.findings += check_days(reports)
    told = covered(events)
    erased = {row for report in reports for row in report.redacted}
    found.redacted, found.uncovered = len(erased), sum(row not in told for row in erased)
    return found


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
    found = []
    for file in report.manifest.files:
        if file.table != EVENT.name:
            continue
        with place.open(f"{folder}/{file.name}") as opened:
            rows = pq.read_table(opened, columns=["kind", "detail"]).to_pylist()
        found += [json.loads(row["detail"]) for row in rows if row["kind"] == "redacted"]
    return found
