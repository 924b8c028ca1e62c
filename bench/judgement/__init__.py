"""Gates against what others do, over the same simulated traffic."""
