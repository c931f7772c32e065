"""Bad input: one sentence that names the place and the remedy."""

import re

import numpy as np
import pytest

from probes.probing import ProbeCell, probe_cells
from probes.probing.label import split_documents
from tests.probing_data import cell, corpus

TEXT = corpus(documents=12, seed=0)
X = TEXT.noise(4)
Y = np.array(["a", "b"])[TEXT.rng.integers(0, 2, len(TEXT))]
N = len(TEXT)


def with_value(value, token, column):
    changed = X.copy()
    changed[token, column] = value
    return changed


def rare():
    changed = Y.astype(object)
    changed[np.flatnonzero(TEXT.documents == TEXT.documents[0])[:2]] = "rare"
    return changed


REFUSED = {
    "one class": ({"labels": {"tag": np.full(N, "noun")}}, "Label 'tag' has one class, 'noun'. A probe needs at lea"),
    "a rare class": ({"labels": {"tag": rare()}}, "Class 'rare' of label 'tag' occurs in 1 documents, and 5 folds n"),
    "few documents": ({"folds": 20}, "Label 'y' stands in 12 documents, and 20 folds of whole documents need at lea"),
    "few folds": ({"folds": 2}, "folds must be at least 3"),
    "NaN": ({"cells": [cell(with_value(np.nan, 7, 2), "mine")]},
            'cell {"cell": "mine"}: feature 2 is NaN at token 7 (1 such numbers in 1 of 4 columns). Leave'),
    "infinite": ({"cells": [cell(with_value(-np.inf, 5, 3))]}, "feature 3 is infinite at token 5"),
    "NaN in the residual stream": (
        {"cells": [cell(X, residual="r")], "residuals": {"r": with_value(np.nan, 1, 0)}},
        "residual r: feature 0 is NaN at token 1",
    ),
    "constant features": ({"cells": [cell(np.ones((N, 3)))]}, "every feature is constant, so there is nothing to pr"),
    "another length of features": ({"cells": [cell(X[:-1])]}, f"features must be [token, feature] with {N} tokens, "),
    "flat features": ({"cells": [cell(X[:, 0])]}, f"features must be [token, feature] with {N} tokens, got [{N}]"),
    "another length of a label": ({"labels": {"y": Y[:-3]}}, f"Label 'y' has {N - 3} tokens, documents {N}. Give each"),
    "another length of positions": ({"positions": np.arange(3)}, f"positions must be one-dimensional with {N} tokens"),
    "another length of token ids": ({"token_ids": np.arange(5)}, f"token_ids must be one-dimensional with {N} tokens"),
    "no documents": ({"documents": []}, "documents must be one-dimensional with at least one token, got shape [0]"),
    "no cells": ({"cells": []}, "No cells were given"),
    "no labels": ({"labels": {}}, "No labels were given"),
    "cells alike": ({"cells": [cell(X), cell(X)]}, 'Two cells have the labels {"cell": "planted"}. Give each its own'),
    "a column's name": ({"cells": [ProbeCell({"probe": 1}, X)]}, "Labels named probe are columns of the result"),
    "an unknown residual": ({"cells": [cell(X, residual="r")]}, "residual stream 'r', and residuals has none. Add it"),
    "an unknown probe": ({"probes": ["svm"]}, "Unknown probe 'svm'. Choose from linear, ridge, mlp"),
    "no probe": ({"probes": []}, "probes must be a list of names, got []. Choose from"),
    "a probe that takes no such label": (
        {"labels": {"loss": X[:, 0]}}, "Label 'loss' has numbers, which none of the probes (linear) takes. Add 'ridge'",
    ),
    "no references": ({"references": []}, "references must be a list of names, got []. Leave it out to mean all"),
    "a lookup for a code": (
        {"probes": ["online_code"], "references": ["token_identity"], "token_ids": TEXT.token_ids},
        "None of the references token_identity can be had for these probes. Add 'constant'.",
    ),
    "an unknown reference": ({"references": ["chance"]}, "Unknown reference 'chance'. Choose from constant,"),
    "a reference without its data": ({"references": ["position"]}, "The reference 'position' needs positions=, which"),
    "a control without tokens": ({"references": ["control_task"]}, "'control_task' needs token_ids=, which was not "),
    "a stream that no cell has": ({"references": ["residual_pca"]}, "'residual_pca' needs residual of a cell, which"),
    "a confidence in percent": ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
    "constant numbers": ({"labels": {"loss": np.full(N, 2.5)}}, "Label 'loss' is 2.5 at every token. A probe needs "),
    "infinite numbers": ({"labels": {"loss": with_value(np.inf, 0, 0)[:, 0]}}, "Label 'loss' is infinite at some to"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_words(name):
    changed, message = REFUSED[name]
    given = {"cells": [cell(X)], "labels": {"y": Y}, "documents": TEXT.documents} | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        probe_cells(**given)


def test_a_class_that_no_split_can_spread_is_refused():
    """Two documents cannot be in three folds; probe_cells refuses them earlier, by the number of documents."""
    documents = np.repeat(np.arange(9), 4)
    codes = (documents < 2).astype(int)
    with pytest.raises(ValueError, match=r"In 10 splits, class 'rare' of label 'tag' never stood in 3 of 4 folds"):
        split_documents("tag", codes, ("common", "rare"), documents, 4, seed=0)
