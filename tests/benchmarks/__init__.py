"""Side-by-side speed against other frameworks, by hand: `python -m tests.benchmarks.speed`. No test is collected."""
