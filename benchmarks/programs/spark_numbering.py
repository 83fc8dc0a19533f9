"""Numbering of a data set's texts by Spark, with the statements of `docs/numbering.sql`.

    python benchmarks/programs/spark_numbering.py IN WORK OUT

Needs pyspark 4 and Java 17, and nothing of this package. Prints the seconds that it took, and those
of CPU of Spark's process.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

STATEMENTS = Path(__file__).parents[2] / "docs" / "numbering.sql"


def statements(source: str, work: str, out: str) -> list[str]:
    """Statements with the folders in them."""
    text = re.sub(r"--.*", "", STATEMENTS.read_text(encoding="utf-8"))
    for name, folder in (("IN/", source), ("WORK/", work), ("OUT/", out)):
        text = re.sub(rf"(?<=['`]){name}", f"{folder}/", text)
    return [statement for part in text.split(";") if (statement := part.strip())]


def main() -> None:
    """Run the statements on this machine."""
    from pyspark.sql import SparkSession

    folders = [str(Path(folder).resolve()) for folder in sys.argv[1:]]
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "3g")
        .config("spark.sql.shuffle.partitions", "16")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    started = time.perf_counter()
    for statement in statements(*folders):
        spark.sql(statement)
    took = time.perf_counter() - started
    ticks = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/stat").read_text().split()[13:15]
    cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    spark.stop()
    print(f"{took:.1f} s, {cpu:.1f} s of CPU")


if __name__ == "__main__":
    main()
