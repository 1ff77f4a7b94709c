"""Programs that show how models are served; each runs in the test suite."""
