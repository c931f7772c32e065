"""From what a user names to a corpus. A new kind of corpus is a new file and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.training.files import corpus_files
from probes.corpora.corpus import Corpus
from probes.corpora.jsonl import JsonLines
from probes.corpora.saved_dataset import MARKS, SavedDataset
from probes.corpora.task_rows import TASKS, TaskRows
from probes.corpora.text_files import TextFiles


def open_corpus(source: str | Path | Sequence[str | Path], split: str = "file") -> Corpus:
    """The corpus that names mean.

    Args:
        source: text files or .jsonl files (names or patterns, one or several), the folder of a saved dataset, or task
            rows: "tasks", "tasks:rows=8,rules=0-7,split=train,seed=1", "tasks:file=rows.jsonl".
        split: of text files: "file", "paragraph" or "line".
    Raises:
        ValueError: nothing is there, or kinds are mixed.
    """
    named = [str(name) for name in ([source] if isinstance(source, str | Path) else source)]
    if not named:
        raise ValueError("No corpus was named. Give text files, .jsonl files, a saved dataset or tasks.")
    special = [name for name in named if name.split(":")[0] == TASKS or _is_dataset(name)]
    if special and len(named) > 1:
        raise ValueError(f"{special[0]} is a corpus of its own and was given with others. Harvest it by itself.")
    if special:
        return SavedDataset(Path(named[0])) if _is_dataset(named[0]) else TaskRows.from_spec(named[0])
    folders = [name for name in named if Path(name).is_dir()]
    if folders:
        raise ValueError(
            f"{folders[0]} is a folder, but no saved dataset ({MARKS[0]} is not in it). Name its files: "
            f"{folders[0]}/*.txt."
        )
    paths = corpus_files(named)
    kinds = {path.suffix == ".jsonl" for path in paths}
    if len(kinds) > 1:
        raise ValueError("Text files and .jsonl files were given together. Harvest each kind by itself.")
    return JsonLines(paths) if kinds == {True} else TextFiles(paths, split)


def _is_dataset(name: str) -> bool:
    return any((Path(name) / mark).is_file() for mark in MARKS)
