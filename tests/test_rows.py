"""Results as DataFrames and DataArrays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.relate.run import Relations
from specfm.cli._results import Vectors
from specfm.dense.memory import DenseFeatures
from specfm.errors import UsageError
from specfm.rows import Rows
from tests.test_brief import RESULTS


def test_every_result_with_rows_is_a_table() -> None:
    with_rows = [each for each in RESULTS if "rows" in vars(each) or "rows" in each.__annotations__]
    assert len(with_rows) > 8 and all(issubclass(each, Rows) for each in with_rows)


def test_what_rows_nest_becomes_columns() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "oa": {"mean": 0.5, "ci": [0.4, 0.6]}}, {"a": 2, "oa": {"mean": 0.7}}]
    rows[1]["b"] = "x"
    table = Relations(rows, [], {}).to_dataframe()
    assert list(table.columns) == ["a", "oa.mean", "oa.ci", "b"] and table["oa.mean"].tolist() == [0.5, 0.7]


def test_vectors_are_a_table_like_their_file() -> None:
    rows: list[dict[str, Any]] = [{"specimen": "a"}, {"specimen": "b"}]
    table = Vectors([Path("v.csv")], rows, np.arange(6.0).reshape(2, 3)).to_dataframe()
    assert list(table.columns) == ["specimen", "f1", "f2", "f3"] and table.loc[1, "f3"] == 5


@pytest.mark.parametrize("on_a_map", [False, True])
def test_dense_features_keep_their_places(on_a_map: bool) -> None:
    features = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    features[0, 1] = np.nan
    places: dict[str, Any] = {"x_w": np.array([10.0, 20, 30]), "y_h": np.array([5.0, 4])} if on_a_map else {}
    dense = DenseFeatures(features, np.array([1.0, 4]), np.array([1.0, 4, 7]), **places)
    array, table = dense.to_xarray(), dense.to_dataframe()
    assert array.sel(row=4, col=7, feature=3) == 23 and array.dims == ("row", "col", "feature")
    assert len(table) == 5 and table.iloc[-1]["f4"] == 23 and tuple(table.iloc[-1][["row", "col"]]) == (4, 7)
    assert ("x" in array.coords, "x" in table) == (on_a_map, on_a_map)
    if on_a_map:
        assert float(array.sel(row=4, col=7)["x"]) == 30 and table.iloc[-1]["y"] == 4


def test_without_pandas_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        Relations([], [], {}).to_dataframe()
