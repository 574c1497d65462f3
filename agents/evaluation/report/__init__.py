"""The report of an evaluation: a page, a text for a pull request, pictures; from `results.json`."""
