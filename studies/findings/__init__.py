"""What composition does in the bundled pair: the scripts behind docs/findings.md. Run: python -m studies.findings."""
