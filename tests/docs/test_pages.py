"""Every snippet of README.md and docs/ is true: what can be run here is run, the rest is parsed.

The commands of a page run in their order in a folder of their own, on small data; those that need
real data, a network or minutes have their arguments parsed by the command's own parser. A command
that this file does not know fails the test. So do a link that leads nowhere and an option that no
command takes.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from ekpnet_fast import cli
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs.options import command_parser, parse_command
from support import shop
from support.places import ROOT
from support.small_run import SYNTHETIC

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)

SMALL = [
    *["--epochs", "1", "--shape.width", "4", "--shape.slots", "8", "--ranking", "false"],
    *["--pretrain.batch_size", "64", "--train.batch_size", "64"],
]
RUN = ("train", "evaluate", "recommend", "explain", "export", "data", "doctor")
PARSED_ONLY = ("serve", "experiments", "refresh")  # a server, minutes of training, other models
MADE = {
    "README.md": ("runs/first",),
    "docs/data.md": ("shop", "shop-recbole"),
    "docs/scaling.md": ("shop/dataset.json", "lists"),
    "docs/recommending.md": (
        *("runs/first", "runs/ekpnet", "lists.parquet", "lists", "why.svg", "model.onnx"),
    ),
}
OF_OTHERS = {"--no-build-isolation", "--no-deps"}  # options of pip


@dataclass(frozen=True)
class Page:
    """A page: README.md, or a file of docs/.

    Attributes:
        name: its path in the repository.
        text: its content.
    """

    name: str
    text: str

    @property
    def folder(self) -> Path:
        """Where its links start."""
        return (ROOT / self.name).parent

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return FENCED.sub("", self.text)

    def blocks(self, language: str) -> Iterator[tuple[int, str]]:
        """The fenced blocks of a language: the line where each starts, and its content."""
        for match in FENCED.finditer(self.text):
            if match[1] == language:
                yield self.text.count("\n", 0, match.start()) + 1, match[2]

    def commands(self) -> list[list[str]]:
        """The commands of all bash blocks, in words, in order."""
        found = []
        for _, text in self.blocks("bash"):
            for line in text.replace("\\\n", " ").splitlines():
                found += [shlex.split(part, comments=True) for part in line.split("&&")]
        return [words for words in found if words]

    def spans(self) -> list[str]:
        """What stands between backticks."""
        return re.findall(r"`([^`\n]+)`", self.prose)


PAGES = [
    Page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
]


def slow(name: str) -> list[pytest.MarkDecorator]:
    """The mark of pages that train on the whole synthetic data set, or do much; not the first."""
    return [pytest.mark.slow] if name in ("docs/recommending.md", "docs/training.md") else []


EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
SNIPPETS = [
    pytest.param(page, line, text, id=f"{page.name}, line {line}", marks=slow(page.name))
    for page in PAGES
    for line, text in page.blocks("python")
]
SHOWN = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)}")
    for page in PAGES
    for words in page.commands()
]


def page_of(name: str) -> Page:
    return next(page for page in PAGES if page.name == name)


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The sub-command and its arguments, of `ekpnet X` and `python -m ekpnet_fast.X`."""
    if words[0] == "ekpnet":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"] and words[2].startswith("ekpnet_fast."):
        return words[2].removeprefix("ekpnet_fast."), words[3:]
    return None


def offline(page: Page) -> list[tuple[str, list[str]]]:
    """The commands of a page that run here."""
    found = [command for words in page.commands() if (command := ours(words)) is not None]
    return [
        (name, arguments)
        for name, arguments in found
        if name in RUN and not {"--data-root", "runs/bx"} & set(arguments)
    ]


# ---- what is run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line", "text"), SNIPPETS)
def test_python(page, line, text, tmp_path, monkeypatch, capsys, threads):
    threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EKPNET_DATA", raising=False)
    exec(compile(text, f"{page.name}, line {line}", "exec"), {})


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=slow(page.name)) for page in PAGES if offline(page)],
)
def test_commands_run(page, tmp_path, monkeypatch, capsys, threads):
    """On small data: the shop's files for what imports, the synthetic data for the rest."""
    threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EKPNET_DATA", raising=False)
    files = shop.files()
    for name, text in {
        **files,
        "train.csv": files["buy.csv"],
        "test.csv": files["buy.csv"],
    }.items():
        Path(name).write_text(text)
    for name, arguments in offline(page):
        if name == "export":
            pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
        if name == "train":
            arguments = [*arguments, *SMALL, *([] if "--dataset" in arguments else SYNTHETIC)]
        capsys.readouterr()
        code = cli.main([name, *arguments])
        assert code == 0, f"{name} {shlex.join(arguments)}: {capsys.readouterr().err}"
    for file in MADE[page.name]:
        assert (tmp_path / file).exists(), file


def test_every_command_is_run():
    ran = {name for page in PAGES for name, _ in offline(page)}
    assert ran == set(RUN) - {"evaluate"}  # whose only example is of real data


def test_evaluate_runs_too(tmp_path, monkeypatch, capsys, threads):
    """The page's example is of real data, with the same words."""
    threads(1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *SMALL, *SYNTHETIC, "--output", "runs/bx"]) == 0
    shown = [ours(words) for words in page_of("docs/training.md").commands()]
    assert ("evaluate", ["runs/bx"]) in shown
    assert cli.main(["evaluate", "runs/bx"]) == 0
    assert "reproduced exactly" in capsys.readouterr().out


# ---- what is parsed, or looked at ----------------------------------------------------------------


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def parse(name: str, arguments: list[str]) -> None:
    """By the parser of the command; a wrong word ends in SystemExit or an EkpnetError."""
    if name == "train" and "--resume" in arguments:
        command_parser().parse_args(arguments)  # more would need the run that is resumed
    elif name == "train":
        parse_command(arguments)
    elif name == "evaluate":
        assert len(arguments) == 1
    else:
        parser_of(name).parse_args(arguments)


def parser_of(name: str) -> argparse.ArgumentParser:
    in_folder = (ROOT / "ekpnet_fast" / name).is_dir()
    module = import_module(f"ekpnet_fast.{name}" + (".__main__" if in_folder else ""))
    return module._parser()


@pytest.mark.parametrize("words", SHOWN)
def test_command_is_known(words):
    """What is not run has arguments that its parser takes, and files and extras that are there."""
    command = ours(words)
    if command is not None:
        name, arguments = command
        assert name in (*RUN, *PARSED_ONLY), name
        if name not in RUN or {"--data-root", "runs/bx"} & set(arguments):
            parse(name, arguments)
    elif words[:2] == ["pip", "install"]:
        for word in words[2:]:
            can_be_installed(word)
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        subprocess.run(["bash", "-n", str(ROOT / words[1])], check=True)
    elif words[:2] == ["python", "-m"]:
        assert is_module(words[2])
    else:
        # Builds, and tests: the check that a change must pass runs them. Files have to be there.
        while re.fullmatch(r"EKPNET_\w+=\w+", words[0]):
            words = words[1:]
        assert words[0] in ("pytest", "cmake", "ctest", "mkdocs"), shlex.join(words)
        for word in words[1:]:
            if re.fullmatch(r"[\w./]+\.(py|yml)", word):
                assert (ROOT / word).is_file(), word


def can_be_installed(word: str) -> None:
    """The package itself with extras that it has, an option of pip, or what the build requires."""
    described = project()
    if word.startswith("."):
        extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        assert extras is not None, word
        known = described["project"]["optional-dependencies"]
        assert all(extra in known for extra in (extras[1] or "").split(",") if extra), word
    else:
        required = [re.split(r"\W", line)[0] for line in described["build-system"]["requires"]]
        assert word in {*OF_OTHERS, *required}, word


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@EVERY_PAGE
def test_commands_in_the_text(page):
    """Commands and extras named between backticks exist."""
    for module in re.findall(r"python -m (ekpnet_fast\.\w+|benchmarks(?:\.\w+)+)", page.prose):
        assert is_module(module) or module == "ekpnet_fast.X", module
    for command in re.findall(r"`ekpnet (\w+)", page.prose):
        assert command in cli.COMMANDS or command == "X", command
    for extra in re.findall(r"pip install '(\.\[\w+\])'", page.text):
        can_be_installed(extra)


@cache
def known_options() -> frozenset[str]:
    """All options of all commands, with hyphens or underscores."""
    parsers: list[argparse.ArgumentParser] = [command_parser()]
    parsers += [parser_of(name) for name in ("recommend", "explain", "serve", "experiments")]
    for action in parser_of("data")._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    found = {option for parser in parsers for option in parser._option_string_actions}
    return frozenset(found | {option.replace("_", "-") for option in found} | OF_OTHERS)


@EVERY_PAGE
def test_options_in_the_text(page):
    """Options named between backticks are options of some command."""
    named = {span.split()[0].split("=")[0] for span in page.spans() if span.startswith("--")}
    wrong = sorted(name for name in named if name not in known_options() | {"--NAME.field"})
    wrong = [name for name in wrong if not name.endswith((".", ".NAME"))]
    assert not wrong, f"{page.name}: {', '.join(wrong)}"


def rows_of(page: Page, header: str) -> list[list[str]]:
    """The cells of the table that starts with a header."""
    lines = page.text[page.text.index(header) :].splitlines()[2:]
    table = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def own_options(model: str) -> set[str]:
    kind = MODELS[model].Options
    return set() if kind is None else {field.name for field in fields(kind)}


def test_models_page():
    """Every model has its row, with all options of its own; and what each can do is true."""
    page = page_of("docs/models.md")
    listed: list[str] = []
    for names, _, options in rows_of(page, "| name | system |"):
        models = re.findall(r"`(\w+)`", names)
        listed += models
        shown = {
            option.split(".")[-1] for option in re.findall(r"`([\w.-]*\.[a-z0-9_]+)`", options)
        }
        if "those of `linear`" in options:
            shown |= own_options("linear")
        for model in models:
            assert shown == own_options(model), model
    assert listed == list(MODELS)
    for can, which in rows_of(page, "| | models |"):
        attribute = {"serve": "new_users", "read": "live"}.get(can.split()[0])
        if attribute is not None:
            able = {name for name, model in MODELS.items() if getattr(model, attribute)}
            assert set(re.findall(r"`(\w+)`", which)) == able, can


def test_options_of_ekpnet_plus():
    rows = rows_of(page_of("docs/ekpnet_plus.md"), "| option | |")
    shown = {name.strip("`") for name, _ in rows}
    assert shown == own_options("ekpnet_plus")


# ---- links, and the front page -------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), flags=re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w -]", "", heading).strip().replace(" ", "-") for heading in plain}


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.folder / file).resolve() if file else ROOT / page.name
        assert path.exists(), f"{page.name}: {target}"
        assert path.is_relative_to(ROOT), f"{page.name}: {target} leads out of the repository"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page.name}: {target}"


def test_every_page_is_reached():
    """From the index of docs/, and in the contents of the site."""
    index, site = page_of("docs/README.md"), (ROOT / ".ci" / "mkdocs.yml").read_text()
    for page in PAGES:
        name = page.name.removeprefix("docs/")
        if page.name.startswith("docs/") and page is not index:
            assert f"({name})" in index.text, name
            assert f"- {name}\n" in site, name


def test_readme_is_short():
    text = page_of("README.md").text
    assert len(text.splitlines()) <= 150
    assert text.index("docs/serve.png") < text.index("\n## ")  # the picture comes first


def test_citation():
    """The file that the forge reads names the version of the package, and the paper."""
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == project()["project"]["version"]
    assert cited["license"] == project()["project"]["license"]
    (paper,) = cited["references"]
    assert paper["doi"] in page_of("README.md").text
