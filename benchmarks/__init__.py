"""One script per promise in numbers, each beside what a user would otherwise run. `docs/benchmarks.md` says how."""
