"""Options of a run on a tiny synthetic data set."""

SYNTHETIC = [
    *["--synthetic.users", "60", "--synthetic.items", "80", "--synthetic.positives", "10"],
    *["--synthetic.attributes", "16", "--synthetic.parents", "4", "--synthetic.triples", "435"],
]
SMALL = [
    *["--threads", "1", "--shape.width", "4", "--shape.slots", "8"],
    *["--pretrain.batch_size", "128", "--train.batch_size", "128"],
    *SYNTHETIC,
]
