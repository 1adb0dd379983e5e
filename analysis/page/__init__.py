"""The report: one page that holds everything that was rebuilt, and fetches nothing."""
