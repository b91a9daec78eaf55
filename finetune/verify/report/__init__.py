"""The reports of a verdict: report.json, report.md, report.html, junit.xml and the terminal."""
