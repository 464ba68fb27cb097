"""What is counted of a run: the funnel, the paper's Table 1, histograms."""
