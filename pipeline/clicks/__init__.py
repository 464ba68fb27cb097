"""Events -> clean clicks, cut into sessions and parts of the split."""
