"""The DCFormer paper's in-context tasks: rows of our own for its 74 rules, and how well a model answers them."""

from probes.tasks.generator import generate, split_of
from probes.tasks.paired import compare_scores
from probes.tasks.pairs import corrupted, paired_rows
from probes.tasks.questions import Question, questions_about
from probes.tasks.reader import read_tasks, write_tasks
from probes.tasks.rows import Answer, TaskRow, answer_token_mask
from probes.tasks.rules import FAMILIES, HELD_OUT_RULES, RULES, Rule, rules_for
from probes.tasks.scorer import score
from probes.tasks.scores import AnswerScore, TaskScores

__all__ = [
    "FAMILIES",
    "HELD_OUT_RULES",
    "RULES",
    "Answer",
    "AnswerScore",
    "Question",
    "Rule",
    "TaskRow",
    "TaskScores",
    "answer_token_mask",
    "compare_scores",
    "corrupted",
    "generate",
    "paired_rows",
    "questions_about",
    "read_tasks",
    "rules_for",
    "score",
    "split_of",
    "write_tasks",
]
