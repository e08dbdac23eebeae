"""What pandas of today changes under RecBole's datasets."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from recbole_llmemb.core.errors import UserError


def restore_pandas_habits() -> None:
    """Load datasets on pandas 3, and without warnings on pandas 2.

    RecBole writes ``feat[field].fillna(..., inplace=True)``. pandas 3 hands out a
    copy there, so that missing values silently stay (and sequence fields crash).
    It also writes ``feat[field].agg(len)`` for the length of every sequence, which
    pandas 3 takes for the length of the column, so that no sequence field loads.
    pandas 2.2 announces both in a warning per field.
    """
    if not _habits_are_gone():
        return
    from recbole.data.dataset import dataset as module

    module.pd = _PandasForRecBole("pandas")
    module.Dataset._load_feat = _without_fill_warnings(module.Dataset._load_feat)
    module.Dataset._fill_nan = _fill_nan


def _habits_are_gone() -> bool:
    """Whether pandas no longer does what RecBole counts on, or warns that it soon will not."""
    frame = pd.DataFrame({"number": [float("nan")], "list": [[1, 2]]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame["number"].fillna(0.0, inplace=True)
        lengths = frame["list"].agg(len)
    return bool(caught or frame["number"].isna().any() or not isinstance(lengths, pd.Series))


class _PandasForRecBole(types.ModuleType):
    """pandas, whose frames and missing values are those that RecBole expects."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pd, name)

    @staticmethod
    def read_csv(*arguments: Any, **options: Any) -> pd.DataFrame:
        """Read an atomic file, leaving no missing value in its sequence columns.

        ``Dataset._load_feat`` splits these columns right after reading them; their
        header says which they are (``field:token_seq``).
        """
        frame = _Frame(pd.read_csv(*arguments, **options))
        for column in frame.columns:
            if str(column).endswith("_seq"):
                frame[column] = frame[column].fillna("")
        return frame

    @staticmethod
    def merge(*arguments: Any, **options: Any) -> pd.DataFrame:
        """Merge two frames."""
        return _Frame(pd.merge(*arguments, **options))


class _Column(pd.Series):
    """A column of lists, on each of which ``agg(len)`` works as it did before pandas 3.

    pandas 3 applies the function to the column as a whole, and so takes the number
    of rows for the length of the one sequence.
    """

    @property
    def _constructor(self):
        return _Column

    @property
    def _constructor_expanddim(self):
        return _Frame

    def agg(self, func: Any = None, *arguments: Any, **options: Any) -> Any:
        """Aggregate; the two functions that RecBole passes mean what they did."""
        if func is len:
            return self.map(len)
        if func is np.concatenate:
            return np.concatenate(self.to_list())
        return super().agg(func, *arguments, **options)


class _Frame(pd.DataFrame):
    """A frame of such columns."""

    @property
    def _constructor(self):
        return _Frame

    @property
    def _constructor_sliced(self):
        return _Column


def _without_fill_warnings(load_feat):
    """Silence pandas about the fill in ``_load_feat`` that finds nothing left to do."""

    @functools.wraps(load_feat)
    def quiet(*arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(?s).*A value is (trying to be|being) set")
            return load_feat(*arguments, **options)

    return quiet


def _fill_nan(self) -> None:
    """Fill missing tokens with 0 ([PAD]), numbers with their mean, sequences with nothing."""
    from recbole.utils import FeatureType

    for name in self.feat_name_list:
        feat = getattr(self, name)
        for field in feat:
            ftype = self.field2type[field]
            if ftype == FeatureType.TOKEN:
                feat[field] = feat[field].fillna(0)
            elif ftype == FeatureType.FLOAT:
                feat[field] = feat[field].fillna(feat[field].mean())
            else:
                empty = np.array([], dtype=int if ftype == FeatureType.TOKEN_SEQ else float)
                filled = [empty if isinstance(x, float) else x for x in feat[field]]
                feat[field] = pd.Series(filled, index=feat.index, dtype=object)


def copy_read_only_columns() -> None:
    """Hand PyTorch arrays it may write to, also on pandas 3.

    ``Dataset._dataframe_to_interaction`` builds tensors on ``column.values``, which
    pandas 3 makes read-only: PyTorch warns of undefined behaviour, and a tensor
    written to later would change the frame it shares memory with.
    """
    from recbole.data.dataset import Dataset

    if pd.DataFrame({"a": [1.0]})["a"].values.flags.writeable:
        return
    convert = Dataset._dataframe_to_interaction

    @functools.wraps(convert)
    def with_copies(self, data):
        return convert(self, _WritableColumns(data))

    Dataset._dataframe_to_interaction = with_copies


class _WritableColumns:
    """A frame's columns, each copied when it is asked for."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame)

    def __getitem__(self, field: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(values=self._frame[field].to_numpy(copy=True))


def tell_filtered_interactions() -> None:
    """Say how many interactions go because their user or item has no line in its file."""
    from recbole.data.dataset import Dataset

    filter_inter = Dataset._filter_inter_by_user_or_item

    @functools.wraps(filter_inter)
    def told(self):
        before = len(self.inter_feat)
        filter_inter(self)
        if len(self.inter_feat) < before:
            self.logger.warning(
                f"{before - len(self.inter_feat)} of {before} interactions of {self.dataset_name} "
                "left out, whose user or item has no line in the .user or .item file; set "
                "filter_inter_by_user_or_item: False to keep them."
            )

    Dataset._filter_inter_by_user_or_item = told


def check_presplit_histories() -> None:
    """Say what RecBole's sequential models need of files that are split already.

    Without a list of items per line they end in an AttributeError. Without an alias that
    says that the list holds items, its tokens are numbered for themselves, so that models
    read other items than the files name.
    """
    from recbole.data.dataset import SequentialDataset

    presets = SequentialDataset._benchmark_presets

    @functools.wraps(presets)
    def checked(self):
        listed = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        if listed not in self.inter_feat:
            raise UserError(
                f"benchmark_filename: RecBole's own models read histories from a column {listed}, "
                "which is not among those that are loaded; give it and name it in load_col, or "
                f"train LLMEmb{self.config['model']}, which makes them of whole interactions."
            )
        if listed not in self.alias["item_id"]:
            raise UserError(
                f"benchmark_filename: {listed} holds items only where RecBole is told so; set "
                f"alias_of_item_id: [{listed}]."
            )
        presets(self)

    SequentialDataset._benchmark_presets = checked
