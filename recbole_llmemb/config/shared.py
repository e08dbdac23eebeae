"""Keys of every run: of data, training and evaluation, and of RecBole's those that are checked.

RecBole takes its own as they come, and fails over them late and obscurely.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import model_validator

from recbole_llmemb.config import keys
from recbole_llmemb.config.keys import Settings, Use, contradiction, is_number, key
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.registry import ImportPath

ANY, MACHINE, TRUST, MEASURE, SHARED = Use.ANY, Use.MACHINE, Use.TRUST, Use.MEASURE, Use.SHARED
LEARNING, LATER = Use.LEARNING | SHARED, Use.LATER

#: RecBole's metrics that look at no list's first K.
WITHOUT_CUTOFF = {"gauc", "auc", "mae", "rmse", "logloss"}
# RecBole's changes of histories in training, and the setting that each cannot do without.
_TRANSFORMS = {"mask_itemseq": "mask_ratio", "crop_itemseq": "eta", "reorder_itemseq": "beta"}

_NEGATIVES = (
    "a dictionary of distribution ('uniform' or 'popularity'), sample_num of at least 1, "
    "candidate_num (whole numbers), alpha (from 0 to 4) and dynamic (True or False)"
)
_EVALUATION = (
    "a dictionary of split, order ('TO' or 'RO'), group_by ('user' or 'none') and mode ('full')"
)
_LEARNERS = "adam", "adamw", "sgd", "adagrad", "rmsprop"  # no model has gradients for another
_LEARNER = f"(?i)^({'|'.join(_LEARNERS)})$"
_LEVEL = "(?i)^(debug|info|warning|error|critical)$"

Transform = Literal[
    "mask_itemseq", "crop_itemseq", "reorder_itemseq", "inverse_itemseq", "user_defined"
]
_INTERVAL: dict[str, Any] = {"wanted": "an interval such as '[5,inf)'", "pattern": keys.INTERVALS}
_THRESHOLD = (
    "a whole number of at least 1 (fewer training interactions than that) or a fraction between "
    "0 and 1, such as 0.8 (that share, fewest first)"
)


class DataSettings(Settings):
    """The dataset"""

    model: str = key("", ANY | MEASURE)
    """Name of the model."""
    dataset: str = key("", ANY | MEASURE | Use.ROWS)
    """Name of the dataset."""
    data_path: keys.Place = key("dataset/", ANY | MACHINE | Use.PLACE | MEASURE, **keys.NAME)
    """Folder that holds the dataset's folder."""
    encoding: keys.Encoding = key(None, ANY | SHARED, "the name of an encoding, such as latin-1")
    """Of the dataset's files; empty: utf-8."""
    field_separator: str = key("\t", ANY, **keys.NAME)
    """What stands between two fields."""
    seq_separator: str = key(" ", ANY, **keys.NAME)
    """What stands between the values of one field."""
    USER_ID_FIELD: str = key("user_id", ANY, **keys.NAME)
    """Field of the users."""
    ITEM_ID_FIELD: str = key("item_id", ANY, **keys.NAME)
    """Field of the items."""
    TIME_FIELD: str = key("timestamp", ANY, **keys.NAME)
    """Field that orders a user's interactions."""
    RATING_FIELD: str = key("rating", ANY, **keys.NAME)
    """Field of the ratings."""
    LABEL_FIELD: str = key("label", ANY, **keys.NAME)
    """Field of the labels."""
    NEG_PREFIX: str = key("neg_", ANY, **keys.NAME)
    """What the fields of negatives begin with."""
    LIST_SUFFIX: str = key("_list", ANY, **keys.NAME)
    """What the fields of histories end in."""
    ITEM_LIST_LENGTH_FIELD: str = key("item_length", ANY, **keys.NAME)
    """Field of the lengths of histories."""
    val_interval: dict[str, keys.Kept] | None = key(
        None, ANY | Use.ROWS, "a dictionary by field of intervals ('[5,inf)') or lists of values"
    )
    """Which interactions are kept, by field."""
    user_inter_num_interval: str | None = key("[0,inf)", ANY | Use.ROWS, **_INTERVAL)
    """How many interactions a user must have."""
    item_inter_num_interval: str | None = key("[0,inf)", ANY | Use.ROWS, **_INTERVAL)
    """How many interactions an item must have."""
    benchmark_filename: keys.MaybeNames = key(
        None, ANY | Use.ROWS, "three parts of the dataset, such as ['train', 'valid', 'test']",
        min_length=3, max_length=3,
    )  # fmt: skip
    """The parts of a dataset that is split already."""
    save_dataset: bool = key(False, ANY | TRUST)
    """Whether RecBole keeps the dataset as a pickle."""
    dataset_save_path: keys.Text = key(None, ANY | TRUST)
    """Where it keeps it."""
    save_dataloaders: bool = key(False, TRUST)
    """Whether loaders are kept as pickles, which is not offered here."""
    dataloaders_save_path: keys.Text = key(None, TRUST)
    """Where they would be kept."""
    holdout_items: float | None = key(
        None, SHARED | Use.ROWS, "a share of the items, such as 0.1", ge=0, lt=1
    )
    """Share of the items that are kept out of training altogether, to see how well items are ranked
    that nobody has met; empty: none."""
    holdout_seed: int = key(2020, SHARED | Use.ROWS, **keys.SEED)
    """Of their sample; runs of other seeds hold out the same items."""
    holdout_targets: Literal["last", "all"] = "last"
    """Which interactions with held-out items are test targets: their user's 'last', or 'all'."""

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        fields = "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "ITEM_LIST_LENGTH_FIELD"
        for one, other in itertools.combinations((*fields, "LABEL_FIELD"), 2):
            if getattr(self, one) == getattr(self, other):
                raise contradiction(self, other, one, "each needs a column of its own")
        if self.LABEL_FIELD in (getattr(self, one) + self.LIST_SUFFIX for one in fields):
            raise contradiction(self, "LABEL_FIELD", "LIST_SUFFIX", "histories have this name")
        if self.benchmark_filename and self.holdout_items:
            advice = "those are split already; leave one out"
            raise contradiction(self, "holdout_items", "benchmark_filename", advice)
        if len({*(self.benchmark_filename or ())}) < len(self.benchmark_filename or ()):
            told = f"benchmark_filename is {self.benchmark_filename}, with one part twice"
            raise UserError(f"{told}; name three files.", key="benchmark_filename")
        if self.save_dataloaders or self.dataloaders_save_path:
            told = "save_dataloaders and dataloaders_save_path keep pickles, which are not read"
            raise UserError(f"{told}; leave them off.", key="save_dataloaders")
        return self


class TrainingSettings(Settings):
    """Training"""

    train_mode: Literal["sequence", "prefix"] | None = key(None, LEARNING)
    """'sequence': one pass per user sequence, a loss at every position; 'prefix': RecBole's
    augmentation; empty: sequence where the backbone offers it."""
    prefix_trim: bool = False
    """In prefix mode, whether to leave padding out and to draw dropout faster: same loss, other
    random numbers than RecBole's."""
    MAX_ITEM_LIST_LENGTH: int = key(50, ANY, **keys.SIZE)
    """Items of a history that a model reads."""
    sequence_stride: int | None = key(None, LEARNING, **keys.SIZE)
    """Distance of the windows of sequences beyond MAX_ITEM_LIST_LENGTH; empty: half of that."""
    loss_type: Literal["CE", "BPR", "BCE"] | ImportPath = key("BCE", LEARNING)
    """'BCE' (the authors'), 'BPR' or 'CE' (RecBole's), or where a loss of yours is,
    `mypackage.module:Name`. Where only train_neg_sample_args is given, and is empty: CE."""
    popularity_adjustment: float = key(0.0, **keys.WEIGHT)
    """With CE, how much of an item's log popularity is added to its logit in training only, for
    better tail items (logit adjustment); 0: none."""
    softmax_negatives: int | None = key(None, LEARNING | LATER, **keys.SIZE)
    """With CE, compare each target with this many items drawn uniformly for the step instead of
    with all of them (as eSASRec, without correction); empty, or where there are no more: with
    all."""
    negative_excludes: Literal["history", "target"] = key("history", LEARNING)
    """What a sampled negative must not be: in the user's training 'history', or the 'target'."""
    train_neg_sample_args: keys.Negatives = key(
        {"distribution": "uniform", "sample_num": 1}, ANY | LEARNING, _NEGATIVES
    )
    """Negatives of BCE and BPR; CE takes every item and ignores this."""
    train_targets: Literal["every", "last", "one"] = key("every", LATER)
    """On which items of each sequence a causal model trains: 'every' one, or the 'last' alone;
    LLM-SRec also on 'one' drawn anew each epoch."""
    shuffle_train: bool = key(False, LATER)
    """Whether to train on histories in a wrong order, shuffled once by the seed, to see what order
    is worth; evaluation is on the true one."""
    train_batch_size: int = key(128, ANY | LEARNING, **keys.BATCH)
    """In sequence mode: user sequences per step, on average; in prefix mode: rows."""
    learning_rate: float = key(0.001, ANY | LEARNING, **keys.WEIGHT)
    """Of Adam."""
    learning_rate_decay: float = key(1.0, LEARNING | LATER, **keys.POSITIVE)
    """What it is multiplied by after each epoch."""
    adam_betas: keys.Pair = key([0.9, 0.999], LEARNING | LATER, "two numbers from 0 to below 1")
    """Of Adam: how long it remembers gradients, and their squares."""
    initialization: Literal["own", "xavier"] = key("own", LEARNING | LATER)
    """How weights start: each model's 'own' way, or every matrix by 'xavier' (normal), but for
    items that start as their texts or at zero."""
    epochs: int = key(200, ANY | LEARNING, **keys.WHOLE)
    """At most."""
    stopping_step: int = key(20, ANY | LEARNING, **keys.WHOLE)
    """Stop after one validation more than this many in a row without a better valid_metric."""
    eval_step: int = key(1, ANY | LEARNING, **keys.WHOLE)
    """Epochs from one validation to the next."""
    weight_decay: float = key(0.0, ANY, **keys.WEIGHT)
    """Of the optimizer."""
    clip_grad_norm: keys.Clipping = key(
        None, ANY | LEARNING, "a dictionary such as {'max_norm': 5.0}, perhaps with norm_type"
    )
    """To what length gradients are cut."""
    learner: str = key("adam", ANY, f"one of {', '.join(_LEARNERS)}", pattern=_LEARNER)
    """The optimizer."""
    enable_scaler: bool = key(False, ANY)
    """Whether to scale losses under enable_amp, as amp_dtype: float16 needs."""
    loss_decimal_place: int = key(4, ANY, ge=0, le=32)
    """Decimals of the losses that are told."""
    enable_amp: bool = key(False, ANY | LEARNING)
    """Whether to compute in mixed precision."""
    amp_dtype: Literal["bfloat16", "float16"] = key("bfloat16", LEARNING)
    """Number format under enable_amp: bfloat16, or float16 (then set enable_scaler too)."""
    shuffle: bool = key(True, ANY)
    """Whether the rows of each epoch come in another order."""
    transform: Transform | None = key(None, ANY)
    """RecBole's change of histories in training."""
    mask_ratio: float | None = key(None, ANY, **keys.SHARE)
    """The share of items masked in training."""
    ft_ratio: float | None = key(None, ANY, **keys.SHARE)
    """The share of sequences masked at their last item only, as in prediction."""
    eta: float | None = key(None, ANY, **keys.WEIGHT)
    """The share of a history that transform: crop_itemseq keeps."""
    beta: float | None = key(None, ANY, **keys.WEIGHT)
    """The share of a history that transform: reorder_itemseq shuffles."""

    @model_validator(mode="after")
    def _check(self) -> TrainingSettings:
        if (self.sequence_stride or 0) > self.MAX_ITEM_LIST_LENGTH:
            advice = "positions between would never be trained on; make it at most that"
            raise contradiction(self, "sequence_stride", "MAX_ITEM_LIST_LENGTH", advice)
        if self.adam_betas != [0.9, 0.999] and not self.learner.lower().startswith("adam"):
            raise contradiction(self, "adam_betas", "learner", "leave them, or take adam")
        for one, off in (("popularity_adjustment", "0"), ("softmax_negatives", "(empty)")):
            if getattr(self, one) and self.loss_type != "CE":
                advice = f"it is for a softmax; set loss_type: CE, or {one}: {off}"
                raise contradiction(self, one, "loss_type", advice)
        needed = _TRANSFORMS.get(self.transform or "")
        share = getattr(self, needed) if needed else 0
        if needed and (share is None or share > 1):
            advice = f"it must be a number between 0 and 1, such as {needed}: 0.2"
            raise contradiction(self, needed, "transform", advice)
        if (self.train_neg_sample_args or {}).get("dynamic") and self.train_mode == "sequence":
            advice = "dynamic needs scores before each step; set it to False, or the mode to prefix"
            raise contradiction(self, "train_neg_sample_args", "train_mode", advice)
        return self

    @property
    def stride(self) -> int:
        """Distance of the windows of a sequence."""
        return self.sequence_stride or max(1, self.MAX_ITEM_LIST_LENGTH // 2)

    def check_negatives(self, loss_type: str) -> None:
        """Refuse a loss that compares targets with sampled negatives where none are drawn.

        ``loss_type``: of the model, which may be one of RecBole's.
        """
        if loss_type not in ("BPR", "BCE"):
            return
        args = self.train_neg_sample_args or {}
        count, drawn = args.get("sample_num", 1), args and not keys.draws_none(args)
        counted = isinstance(count, int) and 1 <= count <= 2**20
        if not (drawn and counted and is_number(args.get("alpha", 1.0))):
            told = f"loss_type {loss_type} compares targets with sampled negatives, but"
            told += f" train_neg_sample_args is {args if drawn else None}"
            advice = "give a distribution, a sample_num of at least 1 and a number as alpha, or CE"
            raise UserError(f"{told}; {advice}.", key="train_neg_sample_args")


class EvaluationSettings(Settings):
    """Evaluation"""

    eval_args: keys.Evaluation = key({}, ANY | SHARED | MEASURE, _EVALUATION)
    """How interactions are split, and among what targets are ranked."""
    repeatable: bool = key(True, ANY | SHARED)
    """Whether items may come again, as those of sequences do."""
    metrics: keys.Names = key(["Hit", "NDCG", "MRR"], ANY | SHARED | MEASURE, **keys.NAME)
    """Any of RecBole's, and where metrics of yours are, `mypackage.module:Name`."""
    topk: keys.Counts = key(
        [10, 20], ANY | SHARED | MEASURE, "a list of whole numbers above 0", **keys.NAME
    )
    """Cut-offs of the metrics."""
    valid_metric: str = key("NDCG@10", ANY | SHARED | MEASURE, **keys.NAME)
    """What early stopping watches."""
    eval_batch_size: int = key(1024, ANY | SHARED | Use.SPEED, **keys.BATCH)
    """Users per evaluation batch."""
    metric_decimal_place: int = key(4, ANY | MEASURE, ge=0, le=32)
    """Decimals of the metrics."""
    exclude_history: Literal[False, True, "keep_target"] | None = key(False, ANY | MEASURE)
    """Among what a target is ranked: False: all items, as RecBole; True: without those that the
    user met before, where a target that was met before is a miss; 'keep_target': without those but
    for the target."""
    tail_item_threshold: keys.Threshold = key(4, SHARED, _THRESHOLD)
    """Tail items have fewer training interactions than this; 0.8: they are the 80% least
    popular."""
    short_user_threshold: keys.Threshold = key(9, SHARED, _THRESHOLD)
    """Short users have fewer training interactions than this; 0.8: they are the 80% shortest."""

    def check_valid_metric(self) -> None:
        """Refuse to watch what is not measured."""
        plain = [name for name in self.metrics if name.lower() in WITHOUT_CUTOFF]
        cut = [name for name in self.metrics if name not in plain]
        offered = [f"{name}@{k}" for name in cut for k in self.topk] + plain
        if self.valid_metric.lower() not in [name.lower() for name in offered]:
            told = f"valid_metric is {self.valid_metric!r}, which metrics and topk do not give"
            wanted = f"it must be one of {', '.join(offered)}"
            raise UserError(f"{told}; {wanted}.", key="valid_metric")


class RunSettings(Settings):
    """The run"""

    seed: int = key(2020, ANY, **keys.SEED)
    """Of everything that is drawn."""
    reproducibility: bool = key(True, ANY)
    """Whether the same run gives the same numbers."""
    save_users: bool = key(False, MACHINE)
    """Whether to keep the test metrics of every user beside the result file (`--result_json`), for
    paired tests by `recbole-llm compare`."""
    resume: bool = key(True, MACHINE)
    """Whether to continue an interrupted run of the same configuration."""
    config_files: keys.Text = key(None, ANY | MACHINE)
    """Files of settings, separated by blanks; later ones win."""
    checkpoint_dir: keys.Place = key("saved", ANY | MACHINE | TRUST, **keys.NAME)
    """Folder of the checkpoints."""
    gpu_id: keys.Gpu = key("0", ANY | MACHINE | SHARED, "the number of a GPU")
    """Which GPU is seen."""
    use_gpu: bool = key(True, ANY | MACHINE | SHARED)
    """Whether to compute on one."""
    worker: int = key(0, ANY | LATER, ge=0, le=2**6)
    """Processes that prepare batches beside; in prefix mode each draws its own random numbers."""
    state: str = key(
        "INFO", ANY | MACHINE | SHARED, "debug, info, warning, error or critical", pattern=_LEVEL
    )
    """How much the log is told."""
    show_progress: bool = key(True, ANY | MACHINE | SHARED)
    """Whether there are progress bars."""
    log_wandb: bool = key(False, ANY | MACHINE | TRUST)
    """Whether Weights & Biases is told of a run."""
    wandb_project: keys.Text = key("recbole", ANY | MACHINE)
    """Under which project it is."""
