"""Options: presets, which source wins, and limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.models.ekpnet import PRESETS
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.runs.resolve import preset_options, resolve


def option(config, name):
    """The value of a dotted option."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


# ---- presets -------------------------------------------------------------------------------------

# Table 2, by its own columns D, H, M, lambda1, lambda2, lambda3, lr, L. Its first stage has two
# lambdas: the KG term's, and one norm's, which weighs dense weights and rows alike here.
TABLE_2 = {
    "movielens-1m": {
        "shape": {"width": 16, "hops": 2, "slots": 32, "layers": 3},
        "pretrain": {"lambda1": 0.01, "lambda2": 5e-3, "lambda3": 5e-3, "lr": 1e-2},
        "train": {"lambda1": 0.001, "lambda2": 1e-7, "lambda3": 1e-7, "lr": 5e-3},
    },
    "book-crossing": {
        "shape": {"width": 4, "hops": 3, "slots": 32, "layers": 4},
        "pretrain": {"lambda1": 0.01, "lambda2": 1e-7, "lambda3": 1e-7, "lr": 1e-2},
        "train": {"lambda1": 0.001, "lambda2": 1e-4, "lambda3": 1e-4, "lr": 5e-3},
    },
}


@pytest.mark.parametrize("dataset", TABLE_2)
def test_paper_preset_is_table_2(dataset):
    config = parse_command(["--preset", "paper", "--dataset", dataset]).config
    for group, values in TABLE_2[dataset].items():
        for name, value in values.items():
            assert option(config, f"{group}.{name}") == value, f"{group}.{name}"
    assert config.shape.activation == "tanh"


@pytest.mark.parametrize("dataset", ["last-fm", "synthetic"])
def test_paper_preset_knows_no_other_data(dataset):
    with pytest.raises(ConfigError, match=f"movielens-1m, book-crossing .*, not for {dataset}"):
        parse_command(["--preset", "paper", "--dataset", dataset])


@pytest.mark.parametrize(
    "name", ["movielens-1m", "movielens-1m/", "movielens-1m/raw", "some/folder/movielens-1m"]
)
def test_a_preset_is_found_by_the_folder(name):
    assert preset_options("paper", name, "ekpnet") == PRESETS["paper"]["movielens-1m"] != {}


def test_options_do_not_follow_from_the_name_of_the_data():
    def of(name):
        return {
            model: replace(resolve({"dataset": name, "model": model}), dataset="")
            for model in MODELS
        }

    assert of("movielens-1m") == of("book-crossing") == of("last-fm") == of("synthetic") == of("x")


@pytest.mark.parametrize("model", MODELS)
def test_defaults_of_a_model(model):
    config = parse_command(["--model", model, "--dataset", "some-other"]).config
    for name, value in MODELS[model].defaults.items():
        assert option(config, name.replace(f"{model}.", "options.")) == value, name


def test_every_paper_preset_can_be_run():
    found = [
        (model, name) for model, kind in MODELS.items() for name in kind.presets.get("paper", ())
    ]
    assert ("ekpnet", "book-crossing") in found and not any(model == "mf" for model, _ in found)
    for model, name in found:
        config = parse_command(["--model", model, "--preset", "paper", "--dataset", name]).config
        for dotted, value in MODELS[model].presets["paper"][name].items():
            assert option(config, dotted) == value
        assert config.auto == ()


def test_a_preset_is_not_for_every_model():
    with pytest.raises(ConfigError, match=r"--preset paper is for .*ekpnet.*, not for model mf"):
        parse_command(["--preset", "paper", "--dataset", "movielens-1m", "--model", "mf"])


# ---- what only one model has ---------------------------------------------------------------------


def test_options_of_a_model(tmp_path):
    config = parse_command(["--model", "ripplenet", "--ripplenet.using_all_hops", "false"]).config
    assert config.options == MODELS["ripplenet"].Options(using_all_hops=False)
    written = config.as_dict()
    assert written["ripplenet"]["using_all_hops"] is False and "options" not in written
    file = tmp_path / "run.yaml"
    file.write_text("model: ripplenet\nripplenet:\n  using_all_hops: false\n")
    assert parse_command(["--config", str(file)]).config == config
    assert parse_command([]).config.options is None


def test_options_of_another_model_are_refused(tmp_path):
    expected = r"^--ripplenet.using_all_hops: an option of model ripplenet, but --model is mf$"
    with pytest.raises(ConfigError, match=expected):
        parse_command(["--model", "mf", "--ripplenet.using_all_hops", "true"])
    file = tmp_path / "run.yaml"
    file.write_text("model: mf\nripplenet:\n  using_all_hops: true\n")
    with pytest.raises(ConfigError, match=expected):
        parse_command(["--config", str(file)])
    with pytest.raises(ConfigError, match="options: found int for model ripplenet, expected ekp"):
        resolve(RunConfig(model="ripplenet", options=3))
    with pytest.raises(ConfigError, match="options: found int for model popularity, expected none"):
        resolve(RunConfig(model="popularity", options=3))


def test_options_of_a_file_have_one_value():
    for text, name in (("seed: 1\nseed: 2", "seed"), ("train: {lr: 1, lr: 2}", "lr")):
        with pytest.raises(ConfigError, match=f"found '{name}' twice, expected it once"):
            parse_command(["--config", text])
    with pytest.raises(ConfigError, match="--tune is '9999"):
        parse_command(["--tune", "9" * 5000])


@pytest.mark.parametrize("text", ["[1]", "x", "", "1: 2"])
def test_a_file_holds_options_by_name(text, tmp_path):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"--config .*o\.yaml: found .*, expected a file of opt"):
        parse_command(["--config", str(tmp_path / "o.yaml")])
    with pytest.raises(ConfigError, match=r"--config: found 'nowhere\.yaml', expected a"):
        parse_command(["--config", "nowhere.yaml"])


@pytest.mark.parametrize("option", ["output", "data-root", "config", "resume"])
def test_an_empty_name_is_no_folder(option):
    name = option.replace("-", "_")
    for words in ([f"--{option}", ""], [f"--{option}="]):
        with pytest.raises(ConfigError, match=f"--{name} is empty, expected a file or folder"):
            parse_command(words)


def test_a_threshold_is_a_number():
    with pytest.raises(ConfigError, match="--threshold is nan, expected a finite number"):
        resolve({"threshold": float("nan")})


def test_a_name_that_is_no_utf_8_is_refused():
    expected = r"^--output: found 'run\\udcff', expected text in UTF-8$"
    for words in (["--output", "run\udcff"], ["--output=run\udcff"]):
        with pytest.raises(ConfigError, match=expected.replace("run", ".*run")):
            parse_command(["--epochs", "1", *words])


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match=r"--model is 'ekp', expected one of popularity, .*"):
        resolve(RunConfig(model="ekp"))


# ---- which source wins ---------------------------------------------------------------------------


def test_defaults_then_preset_then_file_then_command_line(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "dataset: book-crossing\npreset: paper\nseed: 7\n"
        "shape:\n  hops: 1\n  slots: 9\npretrain:\n  lr: 0.5\n"
    )
    config = parse_command(
        ["--config", str(file), "--shape.slots", "5", "--train.lr", "0.25"]
    ).config
    default, paper = RunConfig(), PRESETS["paper"]["book-crossing"]
    # From each source what no later one names:
    assert config.sampling == default.sampling
    assert config.pretrain.group_size == default.pretrain.group_size
    assert config.shape.width == paper["shape.width"] != default.shape.width
    assert config.train.lambda3 == paper["train.lambda3"]
    assert config.seed == 7
    assert config.shape.hops == 1 != paper["shape.hops"]
    assert config.pretrain.lr == 0.5
    assert config.shape.slots == 5
    assert config.train.lr == 0.25


def test_the_command_line_names_the_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("dataset: movielens-1m\npreset: default\n")
    config = parse_command(["--config", str(file), "--preset", "paper"]).config
    assert config.pretrain.lambda2 == 5e-3


def test_no_options_at_all():
    config = parse_command([]).config
    assert config == parse_command([]).config == parse_command(["--dataset", "synthetic"]).config
    assert (config.model, config.output) == ("ekpnet", None)


def test_dashes_and_underscores(tmp_path):
    for name in ("--data-root", "--data_root"):
        for arguments in ([name, str(tmp_path)], [f"{name}={tmp_path}"]):
            assert parse_command(arguments).config.data_root == tmp_path


# ---- epochs, variants ----------------------------------------------------------------------------


def test_epochs_sets_both_stages():
    config = parse_command(["--epochs", "4"]).config
    assert (config.pretrain.epochs, config.train.epochs) == (4, 4)
    # What is written down must not outvote a stage that is named next time.
    assert config.epochs is None
    assert resolve(config) == config


@pytest.mark.parametrize(
    ("model", "attention", "deep"),
    [
        ("ekpnet", True, True),
        ("ekp_att", True, False),
        ("ekp_frame", False, True),
        ("ekp_no", False, False),
    ],
)
def test_variants(model, attention, deep):
    assert (MODELS[model].semantic_attention, MODELS[model].deep) == (attention, deep)
    assert MODELS[model].stages == (("pretrain", "train") if deep else ("pretrain",))


def test_one_stage_may_be_left_out():
    idle = StageConfig(epochs=0)
    resolve(RunConfig(pretrain=idle))
    resolve(RunConfig(train=idle))
    resolve(RunConfig(model="ekp_no", train=idle))
    for config in (RunConfig(pretrain=idle, train=idle), RunConfig(model="ekp_no", pretrain=idle)):
        with pytest.raises(ConfigError, match="no stage has an epoch to train"):
            resolve(config)


# ---- limits --------------------------------------------------------------------------------------


def changed(config, name, value):
    """The configuration with a dotted option set."""
    first, _, rest = name.partition(".")
    value = changed(getattr(config, first), rest, value) if rest else value
    # The KG term needs triples, and has a message of its own for it.
    more = {"lambda1": 0.0} if first == "triples" else {}
    return replace(config, **{first: value, **more})


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("shape.width", 1, 128),
        ("shape.hops", 1, 4),
        ("shape.slots", 1, 64),
        ("shape.layers", 1, 17),
        ("seed", 0, 2**31 - 1),
        ("memory_mb", 1, None),
        ("threads", 1, 1024),
        *[
            (f"{stage}.{name}", low, high)
            for stage in ("pretrain", "train")
            for name, low, high in (
                ("epochs", 0, 2**31 - 1),
                ("patience", 1, 2**31 - 1),
                ("batch_size", 1, 2**31 - 1),
                ("group_size", 1, 2**31 - 1),
                ("triples", 0, 2**24),
                ("lambda1", 0, None),
                ("lambda2", 0, None),
                ("lambda3", 0, None),
            )
        ],
    ],
)
def test_limits(name, low, high):
    for value in (low, high):
        if value is not None:
            resolve(changed(RunConfig(), name, value))
    for value in (low - 1, None if high is None else high + 1):
        if value is not None:
            with pytest.raises(ConfigError, match=rf"^--{name} is {value}, expected "):
                resolve(changed(RunConfig(), name, value))


@pytest.mark.parametrize("lr", [0.0, -0.1, float("inf"), float("nan")])
def test_lr_must_be_a_positive_number(lr):
    with pytest.raises(ConfigError, match=r"--train\.lr is .*, expected a number above 0"):
        resolve(RunConfig(train=StageConfig(lr=lr)))


@pytest.mark.parametrize("name", ["lambda1", "lambda2", "lambda3"])
def test_weights_must_be_numbers(name):
    with pytest.raises(ConfigError, match=rf"--train\.{name} is nan"):
        resolve(RunConfig(train=StageConfig(**{name: float("nan")})))


def test_a_weight_without_triples():
    with pytest.raises(ConfigError, match=r"lambda1 is 0.01 but --pretrain.triples is 0"):
        parse_command(["--pretrain.triples", "0"])
    config = parse_command(["--pretrain.triples", "0", "--pretrain.lambda1", "0"]).config
    assert config.pretrain.triples == 0


# ---- options by name -----------------------------------------------------------------------------


def test_names_may_be_nested_or_dotted():
    words = ["--model", "ripplenet", "--train.lr", "0.5", "--ripplenet.using_all_hops", "false"]
    expected = parse_command(words).config
    nested = {"train": {"lr": 0.5}, "ripplenet": {"using_all_hops": False}}
    dotted = {"train.lr": np.float64(0.5), "ripplenet.using_all_hops": False}
    for options in (nested, dotted):
        assert resolve({"model": "ripplenet", **options}) == expected
    assert resolve(expected) == expected


def test_names_fill_the_preset():
    config = resolve({"dataset": "book-crossing", "preset": "paper", "train.lr": 1.0})
    assert (config.shape.width, config.shape.hops, config.train.lr) == (4, 3, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": {"lrr": 1}}, r"did you mean --train\.lr\?"),
        ({"train": 3}, "--train is 3, expected options by name"),
        ({"epochs": "many"}, "--epochs is many, expected a whole number or null"),
        ({"folds": True}, "--folds is True, expected a whole number"),
        ({"device": "tpu"}, "--device is tpu, expected auto, cpu, cuda"),
        ({"mf.user_bias": True}, "an option of model mf, but --model is ekpnet"),
        ({"resume": "runs/first"}, "Option 'resume' is not accepted"),
    ],
)
def test_names_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(options)
