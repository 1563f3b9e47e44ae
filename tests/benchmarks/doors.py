"""How fast the doors are, beside Orthanc where it is installed: every server in turn, empty, on the same disk.

    make bench                                        the whole of it, about 8 minutes
    make bench ARGS="--share 0.2 --repetitions 1"     a quick look
    make bench ARGS="--only 'C-STORE PT' --check"     one line; exit code 1 where a bar is missed

Each repetition visits every server once, so that a busy machine hurts all alike; only the ratios of medians count.
Whatever was acknowledged is looked for afterwards. Where MIRALL_TEST_KIT names the team's kit, its own load generator
(`load/compare.py`, DCMTK's storescu as sender) runs, too, with more peers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import corpus_of_bytes
import dicom_sender
import servers
import web_load
from corpus_item import Item

OURS, PEER = "mirall", "orthanc"
MEMORY_BAR_MB = 600.0


@dataclass(frozen=True)
class Line:
    """One figure. bar: least ratio of ours to the peer's, None where there is none. window: of asynchronous operations
    that the senders propose."""

    name: str
    corpus: str
    senders: int
    bar: float | None
    operation: str = "c-store"
    window: int = 1


LINES: Sequence[Line] = (
    Line("C-STORE mixed, 4 senders", "mixed", 4, 1.0),
    Line("C-STORE mixed, 8 senders", "mixed", 8, None),
    Line("C-STORE CT, 4 senders", "CT", 4, 1.0),
    Line("C-STORE CT, 2 senders", "CT", 2, None),
    Line("C-STORE CT, 1 sender", "CT", 1, 0.9),
    Line("C-STORE PT, 4 senders", "PT", 4, 0.9),
    Line("C-STORE PT, 1 sender", "PT", 1, 0.9),
    Line("C-STORE PT, 1 sender, window of 4", "PT", 1, None, window=4),
    Line("C-STORE MG, 4 senders", "MG", 4, 1.0),
    Line("STOW-RS", "mixed", 4, 1.0, "stow"),
    Line("QIDO-RS studies", "mixed", 4, 3.0, "qido-studies"),
    Line("QIDO-RS series", "mixed", 4, 3.0, "qido-series"),
    Line("QIDO-RS instances", "mixed", 4, 3.0, "qido-instances"),
    Line("WADO-RS instance", "mixed", 4, 1.0, "wado-instance"),
    Line("WADO-RS frame", "mixed", 4, 1.0, "wado-frame"),
    Line("WADO-RS series metadata", "mixed", 4, 5.0, "wado-series-metadata"),
    Line("WADO-RS rendered", "mixed", 4, 0.8, "wado-rendered"),
)
# The client, not the server, limits how many of these can be asked for: they are compared by processor time.
BY_CPU = frozenset({"wado-instance", "wado-frame"})


@dataclass(frozen=True)
class Figure:
    """One repetition of one line. rate: instances or requests per second. cpu_ms: of the server, for each of them.

    lost: acknowledged and not found afterwards. failed: not acknowledged, or answered wrongly.
    """

    rate: float
    cpu_ms: float
    p95_ms: float
    peak_mb: float
    lost: int
    failed: int


def measure_stores(server: servers.Server, line: Line, items: Sequence[Item]) -> Figure:
    before = server.cpu_s()
    with servers.watched(server):
        sent = dicom_sender.send(server.dimse, server.aet, items, line.senders, line.window)
    cpu_s = server.cpu_s() - before
    there = web_load.listed(server.url, items)
    return Figure(
        rate=len(sent.acknowledged) / sent.wall_s,
        cpu_ms=1e3 * cpu_s / len(items),
        p95_ms=1e3 * _percentile_95(sent.seconds),
        peak_mb=server.peak_mb,
        lost=len(set(sent.acknowledged) - there),
        failed=len(items) - len(sent.acknowledged),
    )


def measure_web(server: servers.Server, line: Line, items: Sequence[Item], requests: int) -> Figure:
    before = server.cpu_s()
    with servers.watched(server):
        answered = web_load.load(server.url, line.operation, items, requests, line.senders)
    cpu_s = server.cpu_s() - before
    stored = line.operation == web_load.STOW
    lost = len({item.sop_instance_uid for item in items} - web_load.listed(server.url, items)) if stored else 0
    for sentence in answered.wrong[:3]:
        print(sentence, file=sys.stderr)
    return Figure(
        rate=(answered.items if stored else answered.right) / answered.wall_s,
        cpu_ms=1e3 * cpu_s / (answered.items if stored else len(answered.seconds)),
        p95_ms=1e3 * _percentile_95(answered.seconds),
        peak_mb=server.peak_mb,
        lost=lost,
        failed=len(answered.wrong),
    )


def _percentile_95(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[max(0, -(-95 * len(ordered) // 100) - 1)]


def visit(
    name: str, folder: Path, lines: Sequence[Line], corpora: Mapping[str, Sequence[Item]], requests: int
) -> dict[str, Figure]:
    """All lines on one server, started empty for each C-STORE line and once for all of the web."""
    figures: dict[str, Figure] = {}
    for line in lines:
        if line.operation == "c-store":
            with _started(name, folder) as server:
                figures[line.name] = measure_stores(server, line, corpora[line.corpus])
    web = [line for line in lines if line.operation != "c-store"]
    if web:
        with _started(name, folder) as server:
            if web[0].operation != web_load.STOW:
                web_load.load(server.url, web_load.STOW, corpora[web[0].corpus], 0, 4)
            for line in web:
                figures[line.name] = measure_web(server, line, corpora[line.corpus], requests)
    return figures


@contextmanager
def _started(name: str, folder: Path) -> Iterator[servers.Server]:
    """A server in a folder of its own, emptied afterwards and not deleted: ext4 goes round the inodes of files that
    were deleted in the last minutes one by one, so each new file would cost ten times as much as on a disk at rest."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    with servers.installed()[name](own) as server:
        yield server
    for path in own.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


@dataclass(frozen=True)
class Summary:
    """Medians over the repetitions of one line. ratio: ours to the peer's, None without a peer."""

    line: Line
    figures: Mapping[str, Mapping[str, float]]
    ratio: float | None

    @property
    def reached(self) -> bool | None:
        if self.line.bar is None or self.ratio is None:
            return None
        return self.ratio >= self.line.bar


def summarise(lines: Sequence[Line], runs: Mapping[str, Sequence[Mapping[str, Figure]]]) -> list[Summary]:
    summaries = []
    for line in lines:
        medians = {
            name: {
                key: statistics.median(asdict(run[line.name])[key] for run in repetitions)
                for key in Figure.__dataclass_fields__
            }
            | {"lost": sum(run[line.name].lost for run in repetitions)}
            for name, repetitions in runs.items()
        }
        ratio = None
        if OURS in medians and PEER in medians:
            ours, peer = medians[OURS], medians[PEER]
            ratio = peer["cpu_ms"] / ours["cpu_ms"] if line.operation in BY_CPU else ours["rate"] / peer["rate"]
        summaries.append(Summary(line, medians, ratio))
    return summaries


def table(summaries: Sequence[Summary]) -> str:
    """Markdown."""
    rows = [
        "| what | server | per s | server CPU ms | p95 ms | memory MB | lost | failed | ratio | bar |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for summary in summaries:
        for name, figure in summary.figures.items():
            last = name == OURS and summary.ratio is not None
            ratio = f"{summary.ratio:.2f}" + (" (CPU)" if summary.line.operation in BY_CPU else "") if last else ""
            bar = f"{summary.line.bar:g}" if last and summary.line.bar is not None else ""
            rows.append(
                f"| {summary.line.name} | {name} | {figure['rate']:.0f} | {figure['cpu_ms']:.2f} | "
                f"{figure['p95_ms']:.1f} | {figure['peak_mb']:.0f} | {figure['lost']:.0f} | {figure['failed']:.0f} | "
                f"{ratio} | {bar} |"
            )
    return "\n".join(rows)


def shortfalls(summaries: Sequence[Summary]) -> list[str]:
    """One sentence for each bar that is missed; nothing that was acknowledged may be lost on any line."""
    sentences = []
    for summary in summaries:
        name, ours, peer = summary.line.name, summary.figures[OURS], summary.figures.get(PEER)
        if summary.reached is False:
            sentences.append(f"{name}: ratio {summary.ratio:.2f} is below {summary.line.bar:g}")
        if peer is not None and summary.line.operation != "c-store" and ours["p95_ms"] > peer["p95_ms"]:
            sentences.append(f"{name}: p95 {ours['p95_ms']:.1f} ms is above Orthanc's {peer['p95_ms']:.1f} ms")
        if ours["lost"] or ours["failed"]:
            sentences.append(f"{name}: {ours['lost']:.0f} acknowledged and not found, {ours['failed']:.0f} failed")
        if summary.line.operation == "c-store" and ours["peak_mb"] > MEMORY_BAR_MB:
            sentences.append(f"{name}: {ours['peak_mb']:.0f} MB are above {MEMORY_BAR_MB:.0f} MB")
    by_name = {summary.line.name: summary for summary in summaries}
    four, eight = by_name.get("C-STORE mixed, 4 senders"), by_name.get("C-STORE mixed, 8 senders")
    if four and eight and eight.figures[OURS]["rate"] < 0.8 * four.figures[OURS]["rate"]:
        sentences.append("C-STORE mixed: 8 senders are slower than 0.8 of 4")
    return sentences


def with_kit(kit: Path, work: Path, repetitions: int) -> None:
    """The same question put by the team's load generator, peers beside each other; its report goes to stdout."""
    load = kit / "load"
    corpus = work / "kit-corpus"
    subprocess.run([sys.executable, "corpus.py", str(corpus), "--preset", "small"], cwd=load, check=True)
    command = (
        f"{sys.executable} -m plugin.cli serve --open --data data --dimse 127.0.0.1:21300 --http 127.0.0.1:21301"
        "|21300|MIRALL|http://127.0.0.1:21301/dicom-web|cfind"
    )
    subprocess.run(
        [
            sys.executable, "compare.py", "--corpus", str(corpus), "--work", str(work / "kit"),
            "--only", "orthanc-nodelay,dcmqrscp-nodelay,pynetdicom-storescp,ours", "--associations", "4",
            "--requests", "300", "--repetitions", str(repetitions), "--own", f"ours|{command}",
        ],
        cwd=load, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="scratch folder on the disk to be measured; a temporary one")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300, help="of each DICOMweb question")
    parser.add_argument("--share", type=float, default=1.0, help="of each corpus, for a quick look")
    parser.add_argument("--only", default="", help="lines whose name contains this")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a bar is missed")
    parser.add_argument("--no-kit", action="store_true", help="leave the kit out although MIRALL_TEST_KIT is set")
    arguments = parser.parse_args()
    lines = [line for line in LINES if arguments.only in line.name]
    if not lines:
        parser.error(f"no line has {arguments.only!r} in its name; they are: {', '.join(each.name for each in LINES)}")
    with tempfile.TemporaryDirectory(prefix="mirall-bench-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        corpora = {
            name: corpus_of_bytes.write(name, work / "corpora" / name, share=arguments.share)
            for name in dict.fromkeys(line.corpus for line in lines)
        }
        runs: dict[str, list[dict[str, Figure]]] = {name: [] for name in servers.installed()}
        for repetition in range(arguments.repetitions):
            for name, results in runs.items():
                print(f"repetition {repetition + 1} of {arguments.repetitions}: {name}", file=sys.stderr)
                results.append(visit(name, work / "server", lines, corpora, arguments.requests))
        summaries = summarise(lines, runs)
        print(table(summaries))
        missed = shortfalls(summaries)
        for sentence in missed:
            print(f"missed: {sentence}")
        if arguments.json is not None:
            report = {
                name: [{line: asdict(each) for line, each in run.items()} for run in all_]
                for name, all_ in runs.items()
            }
            arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
        kit = os.environ.get("MIRALL_TEST_KIT")
        if kit and not arguments.no_kit:
            with_kit(Path(kit), work, arguments.repetitions)
        shutil.rmtree(work / "server", ignore_errors=True)
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
