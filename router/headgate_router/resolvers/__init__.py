"""Where a revision's replicas answer: one adapter of `headgate.ports.Resolver` per file."""
