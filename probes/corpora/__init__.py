"""Where documents come from, one at a time. Every kind of corpus is listed in opening.py."""

from probes.corpora.corpus import Corpus, Document, Documents
from probes.corpora.jsonl import JsonLines
from probes.corpora.opening import open_corpus
from probes.corpora.saved_dataset import SavedDataset
from probes.corpora.task_rows import TaskRows
from probes.corpora.text_files import TextFiles

__all__ = ["Corpus", "Document", "Documents", "JsonLines", "SavedDataset", "TaskRows", "TextFiles", "open_corpus"]
