"""Studies: a YAML file becomes harvests, probes, tables and words. See docs/studies.md."""

from probes.study.run import read_results, run_study
from probes.study.spec import ANALYSES, Study
from probes.study.words import Finding, findings

__all__ = ["ANALYSES", "Finding", "Study", "findings", "read_results", "run_study"]
