"""Training of a model with its test metrics, or tuning: `python -m ekpnet_fast.train`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ekpnet_fast.terminal import TRACEBACK_VARIABLE, guarded, importing, make_console

if TYPE_CHECKING:  # imported where Ctrl-C is told on one line, because it takes seconds
    from rich.console import Console

    from ekpnet_fast.runs import tune
    from ekpnet_fast.runs.options import Command
    from ekpnet_fast.training.parallel.launch import Launch
    from ekpnet_fast.training.progress import Progress


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    It is 2 for an error that the user can mend, 128 + N for a run that signal N stopped.
    """
    if os.environ.get("WORLD_SIZE") and not os.environ.get(TRACEBACK_VARIABLE):
        # Torch, which reads it when it is imported, else prints its stack before the error's line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    with importing():
        from ekpnet_fast.training.parallel.launch import Launch

    with Launch() as launch:
        return _train(arguments, launch)


def _train(arguments: Sequence[str] | None, launch: Launch) -> int:
    with importing():
        from ekpnet_fast.runs.display import Display
        from ekpnet_fast.runs.options import parse_command
        from ekpnet_fast.runs.runner import run
        from ekpnet_fast.training.signals import Interrupted, Signals

    console = make_console()
    command = parse_command(arguments)
    config = command.config
    if command.tune is not None:
        launch.alone("--tune")
        return _tune(command, command.tune, console)
    world = launch.world(config.parallel.parts)
    first = world.rank == 0
    try:
        with Signals() as signals, Display(console) if first else nullcontext(_ignore) as display:
            metrics = run(
                config,
                display,
                resume=command.resume,
                signals=signals,
                on_options=lambda options: _show_options(options, console) if first else None,
                world=world,
            )
    except Interrupted as stop:
        how = f"go on with --resume {config.output}"
        if config.output is None:
            how = "nothing of the run is kept, because it has no --output"
        if launch.tells():
            print(f"{stop}; {how}", file=sys.stderr)
        return 128 + stop.signum
    if first:
        _show_result(metrics, console)
        if config.output is not None:
            console.print(f"Written to {config.output}")
    return 0


def _ignore(progress: Progress) -> None:
    pass


def _show_result(metrics: dict[str, Any], console: Console) -> None:
    """Print what came out of a run."""
    from ekpnet_fast.data.tables import SplitCounts
    from ekpnet_fast.native.cpus import Threads
    from ekpnet_fast.runs.display import result_table, weights_text

    if metrics["split"] is not None:
        for line in SplitCounts(**metrics["split"]).words():
            console.print(line)
    if metrics["refit"] is not None:
        epochs = ", ".join(f"{name} {n}" for name, n in metrics["refit"]["epochs"].items())
        chosen = f" for the epochs chosen ({epochs})" if epochs else ""
        console.print(f"Trained anew on train and validation together{chosen}.")
    if metrics["validated_users"] is not None:
        console.print(
            f"Epochs are chosen by the lists of {metrics['validated_users']:,} users; lists on test"
            f" are of {metrics['ranked_users']:,}."
        )
    console.print(result_table(metrics))
    if metrics["weights"] is not None:
        console.print(weights_text(metrics["weights"]))
    seconds, environment = metrics["seconds"], metrics["environment"]
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items() if name != "total")
    rate = metrics["samples_per_second"]
    shown = "" if rate is None else f" {rate:,.0f} samples/s,"
    left_out = metrics["dropped_users"]
    console.print(
        f"{left_out:,} of {metrics['users']:,} users"
        f" {'has' if left_out == 1 else 'have'} no positive in train and"
        f" {'is' if left_out == 1 else 'are'} left out."
        f"\n{seconds['total']:.1f} s ({parts}),{shown}"
        f" {Threads(environment['threads'], environment['threads_reason'])}, {environment['isa']}"
    )


def _show_options(options: Mapping[str, Any], console: Console) -> None:
    """Print the options that followed from the data."""
    if options:
        listed = ", ".join(f"{name} {json.dumps(value)}" for name, value in options.items())
        console.print(f"From the data: {listed}")


def _tune(command: Command, trials: int, console: Console) -> int:
    """Search for options that validate best; returns the exit code."""
    from ekpnet_fast.runs import tune  # only a search needs it
    from ekpnet_fast.training.signals import Interrupted, Signals

    def show(trial: tune.Trial, best: tune.Trial) -> None:
        worth = f"valid {trial.value:.4f}" if trial.error is None else f"failed: {trial.error}"
        leader = "" if best.error is not None else f"  best {best.value:.4f} ({best.number})"
        tried = "  ".join(
            f"{name}={value:.2e}" if isinstance(value, float) else f"{name}={value}"
            for name, value in trial.options.items()
        )
        console.print(f"{trial.number:3}/{trials}  {worth}{leader}  {trial.seconds:.1f} s  {tried}")

    output = command.config.output
    try:
        with Signals():
            space = None if command.tune_space is None else tune.read_space(command.tune_space)
            best = tune.tune(command.options, trials, space, show, fixed=command.named)[0]
    except Interrupted as stop:
        print(f"{stop}; the same command goes on after the last finished trial", file=sys.stderr)
        return 128 + stop.signum
    assert output is not None  # or there would be no search
    console.print(
        f"Best on validation: trial {best.number}, {best.value:.4f}. Train and test it by"
        f" --config {output / tune.BEST_FILE}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
