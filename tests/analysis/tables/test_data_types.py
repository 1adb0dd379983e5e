"""Tables and figures of what stages=[measure] left, from numbers that can be checked by hand."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import pytest
import stored

from analysis.figures import data_types as figures
from analysis.figures import draw_figure, fig3_zeroshot_by_bits, normality
from analysis.tables import data_types
from analysis.tables import normality as normality_table
from qlora_repro.errors import StoreError
from qlora_repro.records import Codebook, Metric, Normality, QuantErrors, SramQuantiles

matplotlib.use("agg")


def measured(source: str, dtype: str, mse: float, **place: object) -> QuantErrors:
    values = {
        "run_id": "r", "source": source, "name": "", "layer": None, "role": None, "dtype": dtype,
        "blocksize": 64, "dq": False, "n": 100, "levels": 16, "mse": mse, "relative": 0.1,
        "entropy": 3.5, "optimum": 0.001,
    }  # fmt: skip
    return QuantErrors(**(values | place))


def rejections(source: str, name: str, rejected: float, **place: object) -> Normality:
    values = {
        "run_id": "r", "source": source, "name": name, "layer": 0 if name else None,
        "role": "q" if name else "all", "rows": 10, "tested": 64, "columns": 64,
        "rejected": rejected, "rejected_fdr": 0.0, "kurtosis": 0.5,
        "probabilities": [0.1, 0.5, 0.9], "quantiles": [-1.3, 0.0, 1.3],
    }  # fmt: skip
    return Normality(**(values | place))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    return partial(stored.make_run, tmp_path)


@pytest.fixture
def store(tmp_path: Path, run: Callable[..., Path]) -> Path:
    folder = run("bf16")
    weight = {"role": "q", "layer": 0, "name": "a"}
    other = {"role": "k", "layer": 1, "name": "b", "n": 300}
    rows = [
        measured("normal", "nf4", 0.0013),
        measured("normal", "nf4", 0.0015, blocksize=128, relative=0.2),
        measured("weights", "nf4", 0.002, **weight),
        measured("weights", "nf4", 0.004, **other),
        measured("weights", "int8", 0.00001, **weight | {"optimum": None, "levels": 255}),
    ]
    stored.write(folder, "quant_errors", rows)
    own = {"run_id": "r", "fitted": None, "blocksize": None}
    books = [
        Codebook(dtype="int4", levels=[k / 7 for k in range(-7, 8)], **own),
        Codebook(dtype="int8", levels=[k / 127 for k in range(-127, 128)], **own),
        Codebook(run_id="r", dtype="optimum_16", fitted="normal", blocksize=64, levels=[-0.9, 0.9]),
    ]
    stored.write(folder, "codebooks", books)
    names = ("a", "b", "")
    stored.write(
        folder,
        "normality",
        [rejections(s, n, r) for s, r in (("weights", 0.2), ("normal", 0.05)) for n in names],
    )
    quantiles = [
        SramQuantiles(
            run_id="r", distribution="normal", chunk=64, count=count, levels=15,
            mean=0.1 / count, largest=0.2, outward=0.0,
        )
        for count in (1, 4, 16)
    ]  # fmt: skip
    stored.write(folder, "sram_quantiles", quantiles)
    return tmp_path


def test_weights_are_averaged_by_their_size(store: Path) -> None:
    rows = {
        (r["source"], r["type"], r["block"]): r
        for r in data_types.build_table(store).frame.to_dict("records")
    }
    assert rows["small", "nf4", 64]["MSE"] == "3.500"  # (2 * 100 + 4 * 300) / 400
    assert rows["small", "nf4", 64]["over optimum"] == "3.500"
    assert rows["normal", "nf4", 64]["MSE"] == "1.300"
    assert rows["small", "int8", 64]["optimum"] == "-"


def test_the_same_synthetic_values_are_shown_once(store: Path, run: Callable[..., Path]) -> None:
    stored.write(run("bf16", model="other"), "quant_errors", [measured("normal", "nf4", 0.0013)])
    frame = data_types.build_table(store).frame
    assert len(frame[(frame["source"] == "normal") & (frame["block"] == 64)]) == 1


def test_distance_from_the_optimum_is_told_by_role_and_layer(store: Path) -> None:
    (row,) = data_types.build_table_by_role(store).frame.to_dict("records")
    assert (row["all"], row["q"], row["k"]) == ("3.500", "2.000", "4.000")
    assert row["nearest layer"] == "0: 2.000"
    assert row["farthest layer"] == "1: 4.000"


def test_rejections_stand_beside_those_of_normal_rows(store: Path) -> None:
    table = normality_table.build_table(store)
    first = table.frame.to_dict("records")[0]
    assert first["rejected"] == "20.0 %"
    assert first["rejected, synthetic"] == "5.0 %"
    assert first["paper"] == "7.5 %"
    assert any("4-bit grid" in note for note in table.notes)


def test_a_figure_of_codebooks_has_a_mark_a_level_and_leaves_out_8_bits(store: Path) -> None:
    figure = figures.draw_codebooks(store)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["optimum for N(0,1),\nblocks of 64", "int4"]
    marks = [len(lines.get_segments()) for lines in axes.collections]
    assert sorted(marks) == [1, 1, 2, 15]  # two axes of one line each


def test_errors_are_drawn_a_panel_a_source_without_8_bits(store: Path) -> None:
    figure = figures.draw_error_by_blocksize(store)
    assert [axes.get_title() for axes in figure.axes] == ["normal", "small"]
    first = figure.axes[0].get_lines()[0]
    assert list(first.get_xdata()) == [64, 128]
    assert list(first.get_ydata()) == pytest.approx([10, 20])  # percent


def test_quantile_errors_are_drawn_from_two_chunks_on(store: Path) -> None:
    (line,) = figures.draw_sram_quantiles(store).axes[0].get_lines()
    assert list(line.get_xdata()) == [4, 16]


def test_rejections_are_drawn_by_layer_in_percent(store: Path) -> None:
    right = normality.draw_figure(store).axes[1]
    heights = {line.get_label(): line.get_ydata()[0] for line in right.get_lines()}
    assert heights == {"q": 20.0, "normal rows": 5.0}


def test_figure_3_places_a_model_at_its_bits_and_mean_accuracy(
    tmp_path: Path, run: Callable[..., Path]
) -> None:
    tasks = ("winogrande", "piqa")
    for dtype, values in (("nf4", (0.5, 0.7)), ("bf16", (0.6, 0.8))):
        scores = [
            Metric(run_id="r", task=task, name="acc", value=value, stderr=0.03, n=100)
            for task, value in zip(tasks, values, strict=True)
        ]
        stored.write(run(dtype), "metrics", scores)
    points = fig3_zeroshot_by_bits.load_points(tmp_path).set_index("dtype")
    assert points.loc["nf4", "bits"] == 8 * 562 + 16 * 100
    assert points.loc["nf4", "mean"] == pytest.approx(0.6)
    assert points.loc["bf16", "stderr"] == pytest.approx(0.03 / 2**0.5)
    axes = fig3_zeroshot_by_bits.draw_figure(tmp_path).axes[0]
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize(
    "name",
    ["codebooks", "error_by_blocksize", "fig3_zeroshot_by_bits", "normality", "sram_quantiles"],
)
def test_a_figure_without_records_says_which_run_makes_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"python run.py experiments=\w+ (measures|makes) them"):
        draw_figure(name, tmp_path)


def test_tables_without_records_say_which_run_makes_them(tmp_path: Path) -> None:
    table = data_types.build_table(tmp_path)
    assert table.frame.empty
    assert "experiments=data_types" in table.notes[0]
    assert normality_table.build_table(tmp_path).frame.empty
    assert data_types.build_table_by_role(tmp_path).frame.empty
