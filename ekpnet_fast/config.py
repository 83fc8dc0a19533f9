"""Options of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ekpnet_fast.data import SyntheticConfig

# Options that change no number of a run; nor do threads, but they change its times.
WITHOUT_EFFECT = (
    "data_root",
    "output",
    "overwrite",
    "memory_mb",
    "checkpoint_every",
    "report",
    "track",
)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the model; each takes what it has: see its file in `ekpnet_fast/models/`.

    Attributes:
        width: D, embedding width, 1 to 128.
        hops: H, 1 to 4.
        slots: M, ripple-set size, 1 to 64.
        layers: L of eq. 17-18, 1 to 17; the last one is the output.
        activation: a of eq. 17.
        init: distribution of the initial rows: "xavier" = U(-b, b), b = sqrt(6 / (rows + D)),
            "normal" = N(0, 0.1^2), "transe" = U(-6 / sqrt(D), 6 / sqrt(D)) with v scaled to norm
            1 (Bordes et al. 2013), as Algorithm 1 starts.
        table_dtype: of the tables of which a mini-batch touches some rows. bfloat16 takes half the
            memory; their moments, gradients and all arithmetic stay float32.
    """

    width: int = 16
    hops: int = 2
    slots: int = 32
    layers: int = 3
    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    init: Literal["xavier", "normal", "transe"] = "xavier"
    table_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of ripple sets, or of KGCN's neighbours, and of negatives.

    Attributes:
        inverse: walk each triple backwards too.
        padding: short hops, or lists of neighbours, are masked ("mask") or filled by repetition
            as RippleNet and KGCN do.
        resample: draw anew each epoch, which keeps the model from learning one draw by heart;
            evaluation always uses the first draw.
        negatives: per positive, under the protocols that rank.
        negatives_by: whether all items are drawn alike as negatives, or by their train clicks.
        hard_share: share of the negatives that is hard, drawn alike from the items that are most
            like a user's train clicks by the wide part's item kNN, 0 to 1; the rest by
            `negatives_by`.
    """

    inverse: bool = True
    padding: Literal["mask", "repeat"] = "mask"
    resample: bool = True
    negatives: int = 1
    negatives_by: Literal["uniform", "popularity"] = "uniform"
    hard_share: float = 0.0


@dataclass(frozen=True)
class StageConfig:
    """Stage of training (Algorithm 1 or 2, or another model's).

    The loss is eq. 24 summed over the mini-batch and divided by its number of pairs B:
    (pairs + lambda1 / 2 KG + lambda2 / 2 |weights|^2 + lambda3 / 2 |touched rows|^2) / B.
    KG is the model's own term over triples, if it has one.

    Attributes:
        loss: over pairs: "bce", the binary cross-entropy of each; or of a user's positives against
            the negatives of the same mini-batch, at most 16 pairs at a time: "bpr", or "softmax",
            the sampled one with correction by the probability of the draws.
        epochs: at most; 0 leaves the stage out.
        patience: stop after so many epochs without a better validation AUC.
        batch_size: B, pairs per mini-batch.
        group_size: pairs of one user per group, at most.
        lr: step size of Adam.
        lambda1: weight of the KG term (eq. 22); 0 draws no triples.
        lambda2: weight of the squared weights and biases (W_e, b_e, W_l, b_l).
        lambda3: weight of the squared table and relation rows that the mini-batch touches.
        triples: true triples per mini-batch in a KG term that draws them, and as many corrupted.
    """

    loss: Literal["bce", "bpr", "softmax"] = "bce"
    epochs: int = 15
    patience: int = 3
    batch_size: int = 1024
    group_size: int = 64
    lr: float = 1e-2
    lambda1: float = 0.01
    lambda2: float = 1e-5
    lambda3: float = 1e-5
    triples: int = 256


@dataclass(frozen=True)
class ParallelConfig:
    """Work that processes may share.

    Attributes:
        parts: P, parts that each mini-batch is cut into, 1 to 64, whose gradients are added in
            their order; as many processes as divide P may share them, with the same result. 1
            computes a mini-batch in one piece, in one process.
        table: backend of the tables that processes share; `rows` is the package's own, `torchrec`
            TorchRec's row-wise sharding, of two processes or more.
        optimizer: optimizer of these tables; `rows` has `adam` and no other, `torchrec` on CPUs the
            others. The rest of a model is trained by Adam.
    """

    parts: int = 1
    table: Literal["rows", "torchrec"] = "rows"
    optimizer: Literal["adam", "sgd", "adagrad", "rowwise_adagrad"] = "adam"


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run: data, model, the two stages, where and how.

    Attributes:
        dataset: "synthetic", a folder under data_root, or the path of a folder.
        data_root: folder of data sets; the environment variable EKPNET_DATA otherwise.
        preset: "default" = what the model has for any data, and its rules by properties of the
            data; "paper" = Table 2, by the data set's name. Fills what is not set otherwise.
        model: the recommender; `ekpnet_fast/models/` has a file for each.
        protocol: "ripplenet" = examples split 6:2:2, negatives drawn once, click prediction, epoch
            chosen on AUC; "recbole" = each user's positives split 8:1:1, negatives drawn anew for
            each epoch, ranking of all items, epoch chosen on MRR@10; "fixed" = train and test as
            the files of the data set say, for those that are split, whose default it is; validation
            too, or a part of train; negatives as under "recbole", ranking of all items, epoch
            chosen on NDCG@20; "temporal" = as "fixed", but the last tenth of all positives by time
            is test and the tenth before validation; "temporal_user" = each user's last tenths.
        cut: where test begins under the protocol "temporal": a share of the positives below 1, a
            time, or a date (ISO 8601, of UTC where no zone is said); a tenth before is validation.
        refit: when the epochs are chosen, train anew for as many on train and validation together.
        folds: cut the train examples into so many folds, and compute each one's history, ripple
            set and statistics without its own fold's positives (cross-fitting); 1 uses them all.
        seed: of the split, the negatives, the ripple sets, the initial values and the shuffling.
        epochs: sets the epochs of both stages.
        threads: CPU threads, 1 to 1024; if not set, what the process may use (affinity mask, cgroup
            quota), or OMP_NUM_THREADS. The result does not depend on it.
        device: where the model lives; "auto" takes a GPU where one can be used.
        backend: "native" ops, or the plain-torch "reference".
        output: folder for the run's files; nothing is written without it.
        overwrite: replace a run that is in `output`.
        checkpoint_every: epochs from one checkpoint in `output` to the next, for --resume; 1 if
            not set, 0 for none but where a signal stops the run.
        report: also write `report.html` into `output`, the run on one page.
        track: folder for TensorBoard's files.
        threshold: smallest rating that is a positive, for data sets with ratings.
        ranking: also rank all items for every user (precision, recall, F1, NDCG, hit, MRR, MAP at
            K, and coverage, Gini and novelty of the lists).
        ks: lengths K of lists to measure beside 1, 2, 5, 10, 20, 50 and 100.
        ranked_users: users to make those lists for, drawn by the seed; all if not set.
        memory_mb: memory that ranking may take beyond the tables.
        shape: the model's shape.
        sampling: how ripple sets, or neighbours, are drawn.
        pretrain: stage one of a model that has two; EKPNet's predicts by eq. 15.
        train: the other stage; EKPNet's predicts by eq. 18.
        parallel: how mini-batches are cut for several processes.
        synthetic: sizes of the synthetic data set.
        options: those that only this model has, an instance of its `Options`; None: the defaults.
            In files and on the command line the group has the model's name.
        auto: dotted names of options that are left to the model's rules (`models.rules`), until the
            data are there; no option itself.
    """

    dataset: str = "synthetic"
    data_root: Path | None = None
    preset: Literal["default", "paper"] = "default"
    model: str = "ekpnet"
    protocol: Literal["ripplenet", "recbole", "fixed", "temporal", "temporal_user"] = "ripplenet"
    cut: float | str | None = None
    refit: bool = False
    folds: int = 1
    seed: int = 0
    epochs: int | None = None
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["native", "reference"] = "native"
    output: Path | None = None
    overwrite: bool = False
    checkpoint_every: int | None = None
    report: bool = False
    track: Path | None = None
    threshold: float | None = None
    ranking: bool = True
    ks: tuple[int, ...] = ()
    ranked_users: int | None = None
    memory_mb: int = 256
    shape: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)
    train: StageConfig = field(
        default_factory=lambda: StageConfig(epochs=10, lr=5e-3, lambda1=0.001)
    )
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    options: Any = None
    auto: tuple[str, ...] = ()

    def without_output(self) -> RunConfig:
        """Copy of the configuration whose run writes nothing."""
        return replace(
            self, output=None, overwrite=False, checkpoint_every=None, report=False, track=None
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON; the model's options are under its name.

        Options that are left to the rules are left out.
        """
        values = asdict(self)
        options, auto = values.pop("options"), values.pop("auto")
        if options is not None:
            values[self.model] = options
        for name in auto:
            group, _, option = name.partition(".")
            del values[group][option]
        return {k: str(value) if isinstance(value, Path) else value for k, value in values.items()}
