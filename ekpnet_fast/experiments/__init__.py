"""The paper's tables and figures, one command each: `python -m ekpnet_fast.experiments table3`."""
