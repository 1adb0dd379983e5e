"""Who is best: ratings of systems from verdicts, and how far they can be trusted."""
