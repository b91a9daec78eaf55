"""The reports of a verdict: report.json, report.md, report.html, JUnit and the terminal."""
