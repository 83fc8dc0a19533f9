"""Tables and figures of the paper, one command each: `python -m ekpnet_fast.experiments table3`."""
