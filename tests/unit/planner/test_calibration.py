"""Reading published rows, the fit, and how good it is on rows it did not see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import planner_accuracy
from hypothesis import given
from hypothesis import strategies as st
from tools.calibrate.__main__ import SHIPPED, calibrate, document
from tools.calibrate.fit import fit
from tools.calibrate.rows import COLUMNS, ROWS, Refused, Row, parse, parse_rows, read_rows
from tools.calibrate.score import by_split, predictions, score, split_key

from fluxsampler_planner.calibration import CALIBRATION, load

GOOD = {
    "source": "somewhere", "gpu": "A100-NVLink", "n_gpus": "2", "resolution": "1024", "steps": "28",
    "config": "ulysses=2;compile=0;dtype=bf16;model=dev;txt=256;stack=xdit", "latency_s": "8.4",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return read_rows(ROWS)[0]


def test_most_published_rows_are_used_and_every_other_has_a_reason() -> None:
    used, refused = read_rows(ROWS)
    assert len(used) >= 110
    assert len(used) + len(refused) == 166
    assert all(row.reason for row in refused)
    assert len({row.line for row in used} | {row.line for row in refused}) == 166


def test_held_out_rows_meet_the_goals(rows: list[Row]) -> None:
    stated = by_split(rows)
    held = [row for row in rows if not split_key(row)]
    assert len(held) >= 33
    found = score(held, stated)
    assert found.error <= 0.08
    assert found.hits == found.groups >= 9
    assert found.regret <= 0.005
    everything = score(rows, stated)
    assert everything.hits == everything.groups >= 23
    assert everything.regret <= 0.005


def test_shipped_parameters_come_from_the_repository_s_rows(rows: list[Row]) -> None:
    shipped = json.loads(SHIPPED.read_text())
    assert shipped["rows"] == len(rows)
    fitted = fit(rows)
    assert set(fitted.cards) == set(CALIBRATION.cards)
    for row_line, seconds in predictions(rows, fitted).items():
        assert predictions(rows, CALIBRATION)[row_line] == pytest.approx(seconds, rel=0.01)


def test_the_written_file_reads_back(rows: list[Row]) -> None:
    few = [row for row in rows if row.card == "l20"]
    calibration, results = calibrate(few)
    text = json.dumps(document(calibration, few, results))
    again = load(text)
    assert predictions(few, again) == pytest.approx(predictions(few, calibration), rel=1e-2)
    assert again.cards["l20"].error == pytest.approx(calibration.cards["l20"].error, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "H20-NVLink"}, "not in the catalogue"),
        ({"gpu": "A100-PCIe"}, "PCIe version"),
        ({"steps": "0"}, "steps not stated"),
        ({"steps": "many"}, "steps 'many' is not a whole number"),
        ({"steps": "1e400"}, "not a whole number"),
        ({"n_gpus": "2.5"}, "not a whole number"),
        ({"n_gpus": "4"}, "the layout u2 has 2 ranks, n_gpus is 4"),
        ({"resolution": "0"}, "resolution not stated"),
        ({"resolution": "1000"}, "not a multiple of 16"),
        ({"resolution": "large"}, "not a number of pixels"),
        ({"latency_s": "fast"}, "latency 'fast' is not a number"),
        ({"latency_s": "nan"}, "not a positive number"),
        ({"latency_s": "-1"}, "not a positive number"),
        ({"latency_s": None}, "latency None is not a number"),
        ({"config": "ulysses=2;dtype=int4"}, "dtype int4"),
        ({"config": "ulysses=2;cache=teacache"}, "skips steps"),
        ({"config": "ulysses=2;nodes=2"}, "several nodes"),
        ({"config": "ulysses=2;nodes=two"}, "several nodes"),
        ({"config": "ulysses=2;offload=model"}, "offload=model"),
        ({"config": "ulysses=2;rotate=allgather"}, "rotate=allgather"),
        ({"config": "sp=2"}, "does not say which layout"),
        ({"config": "ulysses=2;comm=fp8"}, "another way to communicate"),
        ({"config": "ulysses=2;batch=4"}, "one picture at a time"),
        ({"config": "ulysses=2;moon=full"}, "unknown condition moon"),
        ({"config": "ulysses=2;compile=maybe"}, "compile=maybe is unknown"),
        ({"config": "ulysses=2;model=sd3"}, "model sd3"),
        ({"config": "ulysses=2;txt=long"}, "txt 'long'"),
        ({"config": "ulysses=0"}, "a degree below 1"),
        ({"config": "ulysses=5", "n_gpus": "5"}, "does not divide 24 heads"),
        ({"config": "ulysses=2", "source": "flux_l40.jpg(earlier)"}, "superseded"),
        ({"source": "Flux-A100-crop.png#label", "resolution": "2048"}, "printed labels"),
    ],
)
def test_rows_of_another_kind_are_refused(changes: dict[str, str | None], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        parse(2, {**GOOD, **changes})


def test_a_good_row() -> None:
    row = parse(7, {**GOOD, "resolution": "1024x768", "config": "ulysses=2 ; compile=1;nodes=1;offload=none"})
    assert (row.card, row.work.width, row.work.height, row.work.compiled, str(row.split)) == (
        "a100",
        1024,
        768,
        True,
        "u2",
    )
    assert row.label == "a100 unknown dev 1024x768 28 steps u2 compiled"


@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), st.none() | st.text(max_size=30)), max_size=4))
def test_no_row_crashes_the_reader(records: list[dict[str, str | None]]) -> None:
    used, refused = parse_rows(records)
    assert len(used) + len(refused) == len(records)


@given(
    st.text(alphabet="ulyses=ringptfo;0123456789.-x", max_size=40),
    st.text(alphabet="0123456789.ex-", max_size=8),
)
def test_no_config_crashes_the_reader(config: str, number: str) -> None:
    used, refused = parse_rows(
        [{**GOOD, "config": config}, {**GOOD, "steps": number}, {**GOOD, "latency_s": number}]
    )
    assert len(used) + len(refused) == 3


def write(path: Path, *records: dict[str, str]) -> Path:
    lines = [",".join(COLUMNS), *(",".join(record[column] for column in COLUMNS) for record in records)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_benchmark_evaluates_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = {**GOOD, "config": GOOD["config"].replace("ulysses", "ring"), "latency_s": "5.0"}
    file = write(
        tmp_path / "rows.csv",
        GOOD,
        slower,
        {**GOOD, "gpu": "4090", "n_gpus": "1", "config": "single"},
        {**GOOD, "gpu": "TPU"},
    )
    assert planner_accuracy.main(["--rows", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["rows_used"], result["rows_refused"]) == (4, 2, 2)
    assert [row["reason"] for row in result["refused"]] == [
        "no calibration for rtx-4090",
        "card 'TPU' is not in the catalogue",
    ]
    assert result["cards_without_calibration"]["n"] == 1
    assert (result["groups"], result["hits"]) == (1, 1) or result["missed_groups"]
    assert result["mape"] == pytest.approx(
        sum(abs(each["error"]) for each in result["predictions"]) / 2, abs=1e-3
    )
    assert planner_accuracy.main(["--rows", str(file), "--params", str(SHIPPED)]) == 0
    shown = capsys.readouterr().out
    assert "refused: card 'TPU' is not in the catalogue (line 5)" in shown
    assert "cards scaled from a relative" in shown


def test_the_benchmark_counts_a_missed_group(tmp_path: Path) -> None:
    # Invented: single cards beat nothing, but a ring that is said to be ten times as fast is not what the model picks.
    records = [
        {**GOOD, "n_gpus": "8", "config": "ulysses=8;stack=xdit", "latency_s": "4"},
        {**GOOD, "n_gpus": "8", "config": "ring=8;stack=xdit", "latency_s": "0.4"},
    ]
    result = planner_accuracy.evaluate(write(tmp_path / "rows.csv", *records), CALIBRATION, splits=False)
    assert (result["groups"], result["hits"]) == (1, 0)
    assert result["mean_regret"] == pytest.approx(9)
    assert result["missed_groups"][0]["chosen"] == "u8"


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\x01"])
def test_files_that_are_no_table_exit_with_a_message(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(content)
    with pytest.raises(SystemExit) as caught:
        planner_accuracy.main(["--rows", str(file)])
    assert caught.value.code == 2
    assert "Error" in capsys.readouterr().err


def test_an_empty_table_has_no_figures_and_no_crash(tmp_path: Path) -> None:
    result = planner_accuracy.evaluate(write(tmp_path / "rows.csv"), CALIBRATION, splits=True)
    assert (result["rows"], result["n"], result["groups"]) == (0, 0, 0)


def test_foreign_rows_are_judged_without_scipy(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", GOOD)
    code = (
        "import sys; sys.modules['scipy'] = None; from benchmarks.planner_accuracy import main; "
        f"sys.exit(main(['--rows', {str(file)!r}, '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_used"] == 1


def test_the_default_run_has_a_summary() -> None:
    summary = {line[0]: line[1] for line in planner_accuracy.run(quick=True)["summary"]}
    assert summary["rows used / refused"] == "116 / 50"
