"""The HTML report of a run. Start with `page.write_report`."""
