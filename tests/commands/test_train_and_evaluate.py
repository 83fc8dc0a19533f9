"""`train` and `evaluate` as a user runs them: what they print, write, reproduce and refuse."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from ekpnet_fast import __version__, build_info, evaluate, train
from ekpnet_fast.config import RunConfig
from ekpnet_fast.evaluation.metrics import DEFAULT_KS, TOPK_NAMES
from ekpnet_fast.runs import runner
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.storage import tensor_file
from support.places import ROOT
from support.programs import PATIENCE
from support.sealing import reseal

MODEL = [
    *["--epochs", "1", "--threads", "1", "--shape.width", "4", "--shape.slots", "8"],
    *["--pretrain.batch_size", "128", "--train.batch_size", "128"],
]
DATA = [
    *["--synthetic.users", "60", "--synthetic.items", "80", "--synthetic.positives", "10"],
    *["--synthetic.attributes", "16", "--synthetic.parents", "4", "--synthetic.triples", "435"],
]
SMALL = MODEL + DATA


@pytest.fixture
def command(capsys):
    """Runs a command in this process: exit code, what it printed, what it said on stderr."""

    def call(main, *arguments):
        capsys.readouterr()
        code = main([str(word) for word in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run; tests that change it take a copy."""
    output = tmp_path_factory.mktemp("finished") / "run"
    before = torch.get_num_threads()
    runner.run(parse_command([*SMALL, "--output", str(output)]).config)
    torch.set_num_threads(before)
    return output


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def refused(result):
    """The error of a command that must end in one: a line on stderr and exit code 2."""
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("error: ").strip()


# ---- what a run leaves ---------------------------------------------------------------------------


def test_files_of_a_run(command, tmp_path):
    output = tmp_path / "deep" / "run"
    code, out, err = command(train.main, *SMALL, "--output", output)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in output.iterdir()) == [
        "config.yaml",
        "context.safetensors",
        "metrics.json",
        "model.safetensors",
    ]
    assert f"Written to {output}" in out
    metrics = json.loads((output / "metrics.json").read_text())
    tensors, facts = tensor_file.read(output / "model.safetensors", "model", "a run")
    assert facts == {"kind": "model", "stage": "train", "data_hash": metrics["data_hash"]}
    assert {"entity", "relation", "W_e", "b_e", "weights", "biases", "w_out", "b_out"} == set(
        tensors
    )


def test_metrics_json(finished):
    text = (finished / "metrics.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    metrics = json.loads(text)
    assert list(metrics) == [
        *["format", "version", "dataset", "model", "protocol", "seed", "auto", "data_hash"],
        *["users", "dropped_users", "dropped_examples", "split"],
        *["epochs", "refit", "validated_users", "test", "popularity", "popularity_auc"],
        *[
            "oracle_auc",
            "ranked_users",
            "ranking",
            "popularity_ranking",
            "weights",
            "seconds",
            "cpu_seconds",
            "resumed",
            "samples_per_second",
        ],
        *["peak_rss_mb", "environment", "files", "sha256"],
    ]
    assert metrics["format"] == "ekpnet_fast.run/3"
    assert metrics["version"] == __version__
    assert (metrics["dataset"], metrics["model"], metrics["seed"]) == ("synthetic", "ekpnet", 0)
    assert len(metrics["data_hash"]) == 16 and int(metrics["data_hash"], 16) >= 0
    assert metrics["users"] == 60
    for record, stage in zip(metrics["epochs"], ("pretrain", "train"), strict=True):
        assert list(record) == [
            *["stage", "epoch", "loss", "pairs", "kg", "l2_weights", "l2_rows", "valid_auc"],
            *["valid_mrr", "valid_ndcg", "seconds", "samples_per_second"],
        ]
        assert (record["stage"], record["epoch"]) == (stage, 1)
        assert record["loss"] == pytest.approx(
            sum(record[term] for term in ("pairs", "kg", "l2_weights", "l2_rows"))
        )
    for name in ("test", "popularity"):
        assert list(metrics[name]) == ["auc", "acc", "auc_warm", "gauc"]
        assert all(0 <= value <= 1 for value in metrics[name].values())
    assert metrics["popularity_auc"] == metrics["popularity"]["auc"]
    assert 0.5 < metrics["oracle_auc"] <= 1
    for name in ("ranking", "popularity_ranking"):
        assert list(metrics[name]) == [str(k) for k in DEFAULT_KS]
        for values in metrics[name].values():
            assert list(values) == [
                *["precision", "recall", "f1", "ndcg", "hit", "mrr", "map"],
                *["coverage", "gini", "novelty"],
                *(f"{name}_{end}" for name in TOPK_NAMES for end in ("low", "high")),
            ]
    assert list(metrics["seconds"]) == [
        *["load", "prepare", "sampling", "fit_features", "pretrain", "train", "evaluate", "total"]
    ]
    parts = [value for name, value in metrics["seconds"].items() if name != "total"]
    assert 0 < sum(parts) <= metrics["seconds"]["total"]
    assert metrics["samples_per_second"] > 0
    assert 0 < metrics["cpu_seconds"] < 2 * metrics["seconds"]["total"]  # of one thread
    assert metrics["peak_rss_mb"] > 10
    environment = metrics["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["isa"] == build_info().isa
    assert (environment["threads"], environment["device"]) == (1, "cpu")
    assert environment["processor"]


def test_without_ranking(command, tmp_path):
    output = tmp_path / "run"
    code, out, _ = command(train.main, *SMALL, "--ranking", "false", "--output", output)
    assert code == 0 and "NDCG" not in out
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["ranking"] is None and metrics["popularity_ranking"] is None
    assert command(evaluate.main, output)[0] == 0


def test_nothing_is_written_unasked(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(train.main, *SMALL)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_plain_lines_where_there_is_no_terminal(command):
    code, out, err = command(train.main, *SMALL, "--epochs", "2")
    assert (code, err) == (0, "")
    # So small a data set may well teach nothing in an epoch.
    first, *lines = [line for line in out.splitlines() if not line.startswith("warning: ")]
    assert first.startswith(
        "From the data: sampling.inverse true, pretrain.patience 3, pretrain.lambda3 0."
    )
    for line, (stage, epoch) in zip(
        lines, [(s, e) for s in ("pretrain", "train") for e in (1, 2)], strict=False
    ):
        assert line.startswith(f"{stage:8} {epoch:3}/2  loss ")
        assert " valid AUC 0." in line and line.endswith(" samples/s")
    assert lines[4].startswith("Test, synthetic (data ")
    table = [line for line in lines[5:] if "│" in line]
    assert [line.split("│")[1].strip() for line in table] == [
        "item popularity",
        "ekpnet",
        "best possible",
    ]
    assert "\x1b" not in out and "\r" not in out
    assert " of 60 users have no positive in train and are left out." in out


def test_a_bar_on_a_terminal():
    from rich.console import Console

    from ekpnet_fast.runs.display import Display

    screen = io.StringIO()
    with Display(Console(file=screen, force_terminal=True, width=100)) as display:
        runner.run(parse_command(SMALL).config, display)
    assert "pretrain 1/1" in screen.getvalue()
    assert "valid AUC" in screen.getvalue()


def test_as_a_program(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ekpnet_fast.train", *SMALL]
    done = subprocess.run(
        [*command, "--output", tmp_path / "run"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("From the data: ") and second.startswith("pretrain   1/1  loss ")
    done = subprocess.run(
        [*command, "--epochs", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert refused((done.returncode, done.stdout, done.stderr)).startswith("no stage has an epoch")


@pytest.mark.parametrize("model", ["ekp_att", "ekp_frame", "ekp_no"])
def test_variants_run_and_reproduce(command, tmp_path, model):
    output = tmp_path / "run"
    assert command(train.main, *SMALL, "--model", model, "--output", output)[0] == 0
    assert json.loads((output / "metrics.json").read_text())["model"] == model
    assert command(evaluate.main, output)[0] == 0


def test_ranking_protocol(command, tmp_path):
    output = tmp_path / "run"
    options = ["--protocol", "recbole", "--epochs", "2", "--output", output]
    code, out, err = command(train.main, *SMALL, *options)
    assert (code, err) == (0, "")
    assert "  valid MRR@10 0." in out and "AUC" not in out
    assert ", protocol recbole)" in out and "0 of 60 users have no positive in train" in out
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["protocol"] == "recbole"
    assert metrics["test"] is None and metrics["popularity"] is None
    assert all(record["valid_auc"] is None for record in metrics["epochs"])
    assert all(0 <= record["valid_mrr"] <= 1 for record in metrics["epochs"])
    assert 0 <= metrics["ranking"]["10"]["mrr"] <= metrics["ranking"]["10"]["hit"] <= 1
    code, out, _ = command(evaluate.main, output, "--threads", "2")
    assert code == 0 and "reproduced exactly" in out
    # Negatives are redrawn, so the second epoch is not the first again; and all of it repeats.
    again = tmp_path / "again"
    assert command(train.main, *SMALL, *options[:-1], again, "--threads", "2")[0] == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (output, again)]
    assert weights[0] == weights[1]
    refused(command(train.main, *SMALL, *options[:-1], again, "--ranking", "false"))


def test_threads_are_those_that_the_process_may_use(command, tmp_path, monkeypatch, threads):
    """And the run says why there are so many; here one of three CPUs is allowed."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2}, raising=False)
    threads(2)
    at = SMALL.index("--threads")
    options = [*SMALL[:at], *SMALL[at + 2 :], "--ranking", "false"]
    code, out, err = command(train.main, *options, "--output", tmp_path / "run")
    assert (code, err) == (0, "")
    assert f"1 thread (1 of 3 CPUs: the affinity mask), {build_info().isa}" in out
    environment = json.loads((tmp_path / "run" / "metrics.json").read_text())["environment"]
    assert environment["threads"] == torch.get_num_threads() == 1
    assert environment["threads_reason"] == "1 of 3 CPUs: the affinity mask"
    threads(2)
    assert command(evaluate.main, tmp_path / "run")[0] == 0
    assert torch.get_num_threads() == 1


# ---- evaluate ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--threads", "2"]], ids=["as it was", "two threads"])
def test_evaluate_reproduces_exactly(command, finished, options):
    code, out, err = command(evaluate.main, finished, *options)
    assert (code, err) == (0, "")
    assert "The stored numbers are reproduced exactly." in out


def test_evaluate_sees_another_number(command, copied):
    file = copied / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["ranking"]["10"]["ndcg"] = math.nextafter(metrics["ranking"]["10"]["ndcg"], 1)
    reseal(file, ranking=metrics["ranking"])
    code, out, _ = command(evaluate.main, copied)
    assert code == 1
    assert "These differ from the stored numbers." in out


def test_evaluate_sees_changed_data(command, final, tmp_path):
    output = tmp_path / "run"
    assert command(train.main, *MODEL, "--dataset", final(), "--output", output)[0] == 0
    assert command(evaluate.main, output)[0] == 0
    final(kg=KG + "3 0 11\n")
    text = refused(command(evaluate.main, output))
    assert text.startswith(f"{output}: trained on data with hash ")
    assert "the files of the data set have changed" in text


def test_evaluate_finds_moved_data(command, final, tmp_path):
    folder, output = final(), tmp_path / "run"
    options = ["--dataset", folder.name, "--data-root", folder.parent, "--output", output]
    assert command(train.main, *MODEL, *options)[0] == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    folder.rename(moved / folder.name)
    assert "unknown data set" in refused(command(evaluate.main, output))
    assert command(evaluate.main, output, "--data-root", moved)[0] == 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("metrics.json", None, "metrics.json: no such file, expected the folder of a finished"),
        ("metrics.json", "{", "metrics.json: not valid JSON ("),
        (
            "metrics.json",
            '{"a": 1, "a": 1}',
            "metrics.json: found 'a' twice, expected distinct names",
        ),
        (
            "metrics.json",
            "{}",
            "metrics.json: found format None, expected format 'ekpnet_fast.run/3'",
        ),
        ("config.yaml", None, "config.yaml"),
        ("config.yaml", "shape:\n  width: 9000\n", "config.yaml: found 21 bytes, expected"),
        ("model.safetensors", None, "model.safetensors: no such file"),
        ("model.safetensors", "tensors", "model.safetensors: found 7 bytes, expected"),
    ],
)
def test_evaluate_refuses_a_broken_folder(command, copied, name, content, expected):
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_text(content)
    assert expected in refused(command(evaluate.main, copied))


def test_evaluate_refuses_another_shape(command, copied):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["shape"]["width"] = 5
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    reseal(copied / "metrics.json")
    assert "model.safetensors: does not fit" in refused(command(evaluate.main, copied))


# ---- configuration files -------------------------------------------------------------------------


def test_print_config_is_a_file_for_config(command, capsys, tmp_path):
    arguments = ["--dataset", "movielens-1m", "--preset", "paper", "--seed", "5"]
    with pytest.raises(SystemExit) as stop:
        train.main([*arguments, "--print_config"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["pretrain"]["lambda2"] == 5e-3
    file = tmp_path / "printed.yaml"
    file.write_text(text)
    assert parse_command(["--config", str(file)]).config == parse_command(arguments).config


def test_config_of_a_run_gives_the_same_run(command, finished, tmp_path):
    """Down to the bytes of its weights."""
    file, output = finished / "config.yaml", tmp_path / "again"
    assert command(train.main, "--config", file, "--output", output)[0] == 0
    first, again = (json.loads((f / "metrics.json").read_text()) for f in (finished, output))
    for name in ("data_hash", "test", "popularity", "ranking", "oracle_auc"):
        assert first[name] == again[name]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (finished, output)]
    assert weights[0] == weights[1]
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert {**written, "output": str(finished)} == yaml.safe_load(file.read_text())


def test_the_command_line_overrides_the_file(command, finished, tmp_path):
    output = tmp_path / "other"
    changes = ["--seed", "3", "--model", "ekp_att", "--pretrain.epochs", "2"]
    code, *_ = command(
        train.main, "--config", finished / "config.yaml", *changes, "--output", output
    )
    assert code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["seed"], metrics["model"]) == (3, "ekp_att")
    assert [record["epoch"] for record in metrics["epochs"]] == [1, 2]
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert written["shape"]["width"] == 4


def test_every_option_is_written(finished):
    written = yaml.safe_load((finished / "config.yaml").read_text())
    assert list(written) == list(RunConfig().as_dict())


# ---- bad options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--pretrain.lrr", "1"], "did you mean --pretrain.lr?"),
        (["--slots", "3"], "did you mean --shape.slots?"),
        (["--lr", "1"], "did you mean --pretrain.lr, --train.lr?"),
        (["--modle", "ekpnet"], "did you mean --model?"),
        (["stray"], "unrecognized arguments: stray"),
        (["--shape.width", "0"], "--shape.width is 0, expected 1 to 128"),
        (["--shape.width", "x"], "--shape.width is x, expected a whole number"),
        (["--shape.hops", "5"], "--shape.hops is 5, expected 1 to 4"),
        (
            ["--shape.activation", "gelu"],
            "--shape.activation is gelu, expected tanh, relu, sigmoid",
        ),
        (["--model", "ekp"], "'ekp_frame'"),
        (["--device", "tpu"], "--device is tpu, expected auto, cpu, cuda"),
        (["--pretrain.lr", "-1"], "--pretrain.lr is -1.0, expected a number above 0"),
        (["--pretrain.lr", "nan"], "--pretrain.lr is nan, expected a number"),
        (["--train.lambda2", "-1"], "--train.lambda2 is -1.0, expected at least 0"),
        (["--pretrain.batch_size", "1.5"], "--pretrain.batch_size is 1.5, expected a whole number"),
        (["--pretrain.triples", "99999999999"], "--pretrain.triples is 99999999999, expected"),
        (["--seed", "-1"], "--seed is -1, expected 0 to 2147483647"),
        (["--threads", "0"], "--threads is 0, expected 1 to 1024"),
        (["--threads", "-2"], "--threads is -2, expected 1 to 1024"),
        (["--threads", "1025"], "--threads is 1025, expected 1 to 1024"),
        (["--threads", "all"], "--threads is all, expected a whole number"),
        (["--epochs", "0"], "no stage has an epoch to train"),
        (["--ranking", "maybe"], "--ranking is maybe, expected true or false"),
        (["--preset", "paper"], "not for synthetic"),
        (["--threshold", "4"], "synthetic data have labels"),
        (["--synthetic.users", "0"], "synthetic.users: found 0, expected at least 1"),
        (["--synthetic.triples", "5"], "synthetic.triples"),
        (["--output"], "--output: expected one argument"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_options(command, tmp_path, options, expected):
    output = tmp_path / "run"
    assert expected in refused(command(train.main, "--output", output, *SMALL, *options))
    assert not (output / "metrics.json").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pretrain:\n  lrr: 1\n", "did you mean --pretrain.lr?"),
        ("sede: 1\n", "did you mean --seed?"),
        ("shape: [1\n", "cannot be read as YAML"),
        ("seed: many\n", "many"),
        ("- 1\n- 2\n", "config"),
    ],
)
def test_bad_file(command, tmp_path, text, expected):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    found = refused(command(train.main, "--config", file))
    assert any(part in found for part in expected.split("|"))


# ---- bad data ------------------------------------------------------------------------------------

RATINGS = "".join(f"{u} {i} {(u + i) % 2}\n" for u in range(10) for i in range(10))
KG = "".join(f"{i} 0 {10 + i % 3}\n" for i in range(10))


@pytest.fixture
def final(tmp_path):
    """Writes a folder in the final format; a file that is None is left out."""

    def write(ratings=RATINGS, kg=KG):
        folder = tmp_path / "data" / "small"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("ratings_final.txt", ratings), ("kg_final.txt", kg)):
            if text is not None:
                (folder / name).write_text(text)
        return folder

    return write


def test_good_files_are_silent(command, final):
    # The ground under the tests below, and no warning of a library may reach the user.
    code, _, err = command(train.main, *MODEL, "--dataset", final())
    assert (code, err) == (0, "")
    # Without a graph one line says what the model cannot do.
    (final() / "kg_final.txt").unlink()
    code, _, err = command(train.main, *MODEL, "--dataset", final(kg=None))
    assert (
        code == 0
        and "small has no triples of its items, by which alone ekpnet tells users apart" in err
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"ratings": None}, "small: found none of ratings_final.npy, ratings_final.txt"),
        ({"kg": KG + "1 2\n"}, "kg_final.txt, line 11: found"),
        ({"ratings": RATINGS + "1 2 1 4\n"}, "ratings_final.txt, line 101: found"),
        ({"ratings": "0 x 1\n" + RATINGS}, "ratings_final.txt, line 1: found"),
        ({"ratings": RATINGS + "1 -1 1\n"}, "ratings_final.txt, line 101: found"),
        ({"kg": KG + "1 0 3000000000\n"}, "kg_final.txt, line 11: found"),
        ({"ratings": RATINGS + "1 2 7\n"}, "line 101: found"),
        ({"ratings": RATINGS + "0 0 1\n"}, "line 101: found"),
        ({"kg": ""}, "kg_final.txt: found"),
        ({"ratings": ""}, "ratings_final.txt: found"),
        ({"ratings": RATINGS.replace(" 1\n", " 0\n")}, "no positive row in train"),
        ({"ratings": RATINGS.replace(" 0\n", " 1\n")}, "rows of one label"),
        ({"ratings": "0 0 1\n0 1 0\n"}, "found 2 rows, expected at least 5"),
    ],
    ids=[
        *["no ratings", "too few columns", "too many columns", "no number"],
        *["negative id", "huge id", "no label", "contradiction", "empty kg", "empty ratings"],
        *["no positives", "no negatives", "too few rows"],
    ],
)
def test_bad_data(command, final, tmp_path, files, expected):
    output = tmp_path / "run"
    folder = final(**files)
    found = refused(command(train.main, *MODEL, "--dataset", folder, "--output", output))
    assert expected in found
    assert not (output / "metrics.json").exists()


def test_unknown_data_set(command, tmp_path, final):
    assert "no data root is set" in refused(command(train.main, *MODEL, "--dataset", "nowhere"))
    root = final().parent
    options = ["--dataset", "nowhere", "--data-root", root]
    assert f"found synthetic, small under {root}" in refused(command(train.main, *MODEL, *options))


# ---- output --------------------------------------------------------------------------------------


def test_output_that_cannot_be_written(command, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    for output in (file, file / "run"):
        found = refused(command(train.main, *SMALL, "--output", output))
        assert found.startswith(f"--output {output} cannot be written (")
    assert file.read_text() == "kept"


def test_a_run_is_not_overwritten_unasked(command, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    found = refused(command(train.main, *SMALL, "--output", copied))
    assert found == f"--output {copied} holds a run; choose another folder or add --overwrite true"
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    options = ["--seed", "1", "--overwrite", "true"]
    assert command(train.main, *SMALL, *options, "--output", copied)[0] == 0
    assert json.loads((copied / "metrics.json").read_text())["seed"] == 1
    assert command(evaluate.main, copied)[0] == 0


def test_a_failed_run_leaves_no_result(command, copied):
    # Nor the one it was to replace: a folder must not mix two runs.
    options = ["--overwrite", "true", "--pretrain.lr", "1e30"]
    found = refused(command(train.main, *SMALL, *options, "--output", copied))
    assert "the loss term " in found and " of the pretrain stage" in found
    assert not (copied / "metrics.json").exists()
    assert not list(copied.glob("*.part"))
    assert "no such file" in refused(command(evaluate.main, copied))


# ---- real data -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
def test_last_fm(command, data_root, tmp_path):
    output = tmp_path / "run"
    options = ["--dataset", "last-fm", "--data-root", data_root, "--epochs", "1"]
    code, out, err = command(train.main, *options, "--threads", "1", "--output", output)
    assert (code, err) == (0, "")
    assert "Test, last-fm (data " in out
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["users"] == 1872
    assert metrics["oracle_auc"] is None
    assert metrics["test"]["auc"] > 0.6
    assert command(evaluate.main, output)[0] == 0
