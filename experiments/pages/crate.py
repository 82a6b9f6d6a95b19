"""What a folder of a record holds, as an RO-Crate: one JSON-LD file that other tools read. Imports no torch.

By the specification of RO-Crate 1.1 (https://w3id.org/ro/crate/1.1): a flat graph with the descriptor, the root data
set, its files, and what they are about: the paper, its claims as schema.org's Claim, this software, and a CreateAction
for each recorded setting. It is plain JSON, so that no package is needed to write it.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import quote

from experiments.common.plain import Plain
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry, Record
from experiments.pages import display, index, view

NAME = "ro-crate-metadata.json"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
LICENSE = "https://spdx.org/licenses/MIT"
SOFTWARE = "#reprise"
KINDS = {".md": "text/markdown", ".yaml": "application/yaml", ".webp": "image/webp", ".json": "application/json"}


def metadata(
    record: Record, entries: Mapping[str, display.Entry], finding: str, paths: Mapping[str, int], version: str
) -> Plain:
    """The crate of a record.

    Args:
        entries: what is shown of each setting.
        finding: of the paper's file; may be empty.
        paths: each file of the folder, with its bytes.
        version: of this software.
    """
    paper = _paper(record)
    claims = [_claim(record, title, claim) for title, entry in record.entries.items() for claim in entry.claims]
    actions = [_action(record, title, entry, entries[title]) for title, entry in record.entries.items()]
    written = max((entry.provenance.written for entry in record.entries.values()), default="")
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Re-run of {record.title}",
        "description": finding or record.about,
        "datePublished": written[:10],
        "license": {"@id": LICENSE},
        "hasPart": _references(map(address, paths)),
        "about": {"@id": paper["@id"]},
        "mentions": _references(item["@id"] for item in (*claims, *actions)),
    }
    descriptor = {
        "@id": NAME,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    licence = {"@id": LICENSE, "@type": "CreativeWork", "name": "MIT License", "identifier": "MIT"}
    files = [_file(path, size) for path, size in paths.items()]
    return {
        "@context": CONTEXT,
        "@graph": [descriptor, root, licence, paper, _software(version), *files, *claims, *actions],
    }


def address(path: str) -> str:
    """A file's name within the crate: a relative address, in which a space is %20."""
    return quote(path, safe="/+")


def _references(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"@id": name} for name in names]


def _paper(record: Record) -> Plain:
    """The paper that was run again."""
    if record.arxiv is None:
        return {"@id": f"#{record.key}", "@type": "ScholarlyArticle", "name": record.title}
    address = f"https://arxiv.org/abs/{record.arxiv}"
    return {"@id": address, "@type": "ScholarlyArticle", "name": record.title, "identifier": f"arXiv:{record.arxiv}"}


def _software(version: str) -> Plain:
    address = index.citation()["address"]
    told = {"@id": SOFTWARE, "@type": "SoftwareApplication", "name": "Reprise", "softwareVersion": version}
    return told | ({"url": address} if address else {})


def _file(path: str, size: int) -> Plain:
    kind = KINDS.get(PurePosixPath(path).suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    return {
        "@id": address(path),
        "@type": "File",
        "name": PurePosixPath(path).name,
        "contentSize": str(size),
        "encodingFormat": kind,
    }


def _claim_id(record: Record, title: str, number: int) -> str:
    return f"#claim-{title.replace('+', '-').replace(' ', '-')}-{number}"


def _claim(record: Record, title: str, claim: JudgedClaim) -> Plain:
    """A claim in one setting, its verdict as the rating of a review would be: in words and numbers."""
    number = record.entries[title].claims.index(claim)
    told: Plain = {
        "@id": _claim_id(record, title, number),
        "@type": "Claim",
        "name": claim.name,
        "appearance": {"@id": _paper(record)["@id"]},
        "description": f"At {title}: {claim.verdict}. {view.claim(claim).span}, {len(claim.seeds)} seeds",
        "creativeWorkStatus": claim.verdict,
    }
    if claim.difference is not None:
        told["text"] = f"difference {claim.difference!r} {claim.unit}, 95% interval {list(claim.interval or ())}"
    return told


def _action(record: Record, title: str, entry: Entry, shown: display.Entry) -> Plain:
    """The runs that a setting's numbers come from."""
    claims = _references(_claim_id(record, title, number) for number in range(len(entry.claims)))
    return {
        "@id": f"#run-{title.replace('+', '-').replace(' ', '-')}",
        "@type": "CreateAction",
        "name": f"{record.key} {title}: {len(entry.seeds)} seeds",
        "description": f"{shown.scope}. {shown.registration}. Code: {shown.machine.code}",
        "endTime": entry.provenance.written,
        "instrument": {"@id": SOFTWARE},
        "result": [{"@id": "record.json"}, *claims],
    }
