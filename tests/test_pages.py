"""Every snippet of the README is true: what can be run here is run, the rest is parsed.

Commands run in the order of the page in a folder of their own, on small data; those that need real
data, a network or minutes have their arguments parsed by the command's own parser. A command that
this file does not know fails the test.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import shop
from small_run import SYNTHETIC

from ekpnet_fast import cli
from ekpnet_fast.runs.options import parse_command, run_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SMALL = [
    *["--epochs", "1", "--shape.width", "4", "--shape.slots", "8", "--ranking", "false"],
    *["--pretrain.batch_size", "64", "--train.batch_size", "64"],
]
RUN = ("train", "evaluate", "recommend", "explain", "export", "data", "doctor")
PARSED_ONLY = ("serve", "experiments")  # a server, and minutes of training


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: where it starts in the README, from 1.
        language: "python", "bash" or "" for output.
        text: its content.
    """

    line: int
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S):
        line = README.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[1], match[2]))
    return [block for block in found if block.language == language]


def commands() -> list[list[str]]:
    """The commands of all bash blocks, in words, in order."""
    found = []
    for block in blocks("bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words:
                    found.append(words)
    return found


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The sub-command and its arguments, of `python -m ekpnet_fast.X` and `ekpnet X`."""
    if words[0] == "ekpnet":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"] and words[2].startswith("ekpnet_fast."):
        return words[2].removeprefix("ekpnet_fast."), words[3:]
    return None


def is_offline(name: str, arguments: list[str]) -> bool:
    return name in RUN and not {"--data-root", "runs/bx"} & set(arguments)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"line {block.line}")
def test_python(block, tmp_path, monkeypatch, capsys, threads):
    threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EKPNET_DATA", raising=False)
    exec(compile(block.text, f"README.md, line {block.line}", "exec"), {})


def test_commands_run(tmp_path, monkeypatch, capsys, threads):
    """On small data: the shop's files for what imports, the synthetic data for the rest."""
    threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EKPNET_DATA", raising=False)
    for name, text in shop.files().items():
        Path(name).write_text(text)
    ran = set()
    for words in commands():
        command = ours(words)
        if command is None or not is_offline(*command):
            continue
        name, arguments = command
        if name == "export":
            pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
        if name == "train":
            arguments = [*arguments, *SMALL, *([] if "--dataset" in arguments else SYNTHETIC)]
        capsys.readouterr()
        code = cli.main([name, *arguments])
        assert code == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
        ran.add(name)
    assert ran == set(RUN) - {"evaluate"}  # whose only example is of real data
    for file in ("lists.parquet", "why.svg", "model.onnx", "shop-recbole", "runs/first"):
        assert (tmp_path / file).exists(), file


def test_evaluate_runs_too(tmp_path, monkeypatch, capsys, threads):
    """The page's example is of real data, with the same words."""
    threads(1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *SMALL, *SYNTHETIC, "--output", "runs/bx"]) == 0
    shown = [ours(words) for words in commands()]
    assert ("evaluate", ["runs/bx"]) in shown
    assert cli.main(["evaluate", "runs/bx"]) == 0
    assert "reproduced exactly" in capsys.readouterr().out


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_command_is_known(words):
    """What is not run has arguments that its parser takes, and files and extras that are there."""
    command = ours(words)
    if command is not None:
        name, arguments = command
        assert name in (*RUN, *PARSED_ONLY), name
        if not is_offline(name, arguments):
            parse(name, arguments)
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"\.\[(.*)\]", " ".join(words))
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert words[2].startswith(".")
        assert all(
            extra in known["optional-dependencies"] for e in extras for extra in e.split(",")
        )
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        subprocess.run(["bash", "-n", str(ROOT / words[1])], check=True)
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    else:
        # A build and the whole suite: the check that a change must pass runs them.
        assert words[0] in ("pytest", "cmake", "ctest"), f"unknown command {shlex.join(words)}"


def parse(name: str, arguments: list[str]) -> None:
    """By the parser of the command; a wrong word ends in SystemExit or an EkpnetError."""
    if name == "train" and "--resume" in arguments:
        run_parser().parse_args(arguments)  # more would need the run that is resumed
    elif name == "train":
        parse_command(arguments)
    elif name == "evaluate":
        assert len(arguments) == 1
    else:
        in_folder = (ROOT / "ekpnet_fast" / name).is_dir()
        module = import_module(f"ekpnet_fast.{name}" + (".__main__" if in_folder else ""))
        module._parser().parse_args(arguments)


def test_parsers_are_really_asked():
    with pytest.raises(SystemExit):
        parse("experiments", ["table33", "--output", "x"])
    with pytest.raises(Exception, match="unrecognized arguments: --dateset"):
        parse("train", ["--dateset", "x"])


def test_commands_in_the_text():
    """Commands named between backticks exist."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    for module in re.findall(r"python -m (ekpnet_fast\.\w+|benchmarks\.\w+)", prose):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for extra in re.findall(r"pip install '\.\[(\w+)\]'", prose):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M)
