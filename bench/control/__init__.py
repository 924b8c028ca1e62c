"""`make bench-control`: what the control path costs. Each part measures one thing and can be run alone."""
