"""Loading: every source streams, no hostile file gets in or costs much, and each fault is one plain sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import hostile
import pytest
from data_files import cards, write_rows, write_sheet
from hub_server import HubServer

from medassist.catalog import plain
from medassist.config import DatasetConfig
from medassist.data import hub, load, load_upload, tablefiles
from medassist.data.load import load_table
from medassist.data.shapes import SAMPLE_ROWS
from medassist.errors import DataError

CPU_S = 2.0
PEAK_MB = 150


def table_of(path, **settings):
    return load_table(DatasetConfig(id=str(path), **settings))[0]


def rows_of(path, **settings):
    return [row for row, _ in table_of(path, **settings).read()]


def splits_of(path, **settings):
    return [split for _, split in table_of(path, **settings).read()]


# Hostile files


@pytest.fixture(scope="module")
def hostile_rows():
    """Each case of hostile.py on each road, run in processes of their own."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is read from Linux's /proc")
    out = subprocess.run([sys.executable, hostile.__file__, "--json"], capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-2000:]
    return {(row["name"], row["road"]): row for row in map(json.loads, out.stdout.splitlines())}


@pytest.mark.parametrize("name", hostile.CASES)
@pytest.mark.parametrize("road", ["upload", "path"])
def test_a_hostile_file_gives_one_plain_sentence_soon_and_leaves_nothing(hostile_rows, name, road):
    expected = getattr(hostile.CASES[name], road)
    if expected is None:
        return
    row = hostile_rows[name, road]
    if isinstance(expected, int):
        assert row["rows"] == expected, row
    else:
        said = row["sentence"]
        assert any(words in said for words in expected.split("|")), row
        assert said.endswith(".") and said.isprintable() and len(said) < 250 and row["next_step"], row
        assert "Error" not in said and "Traceback" not in said
    assert row["cpu_s"] < CPU_S and row["peak_mb"] < PEAK_MB, row
    assert row["left_behind"] == []


def test_the_list_of_hostile_files_covers_every_road():
    assert len(hostile.CASES) >= 30
    uploads = [c for c in hostile.CASES.values() if c.upload is not None]
    assert {Path(c.file).suffix for c in uploads} >= {".csv", ".json", ".jsonl", ".parquet", ".xlsx", ".xml"}


def test_text_that_looks_dangerous_stays_the_text_it_is(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"question,answer\n=cmd|' /C calc'!A0,\"\x1b[31m<script>\"\n")
    assert rows_of(path) == [{"question": "=cmd|' /C calc'!A0", "answer": "\x1b[31m<script>"}]


def test_what_json_allows_and_text_does_not_is_mended(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "a\\ud800b \\ud83d\\ude00", "\\udfff": [NaN, {"x": "\\ude00"}], "n": 1e999}\n')
    (row,) = rows_of(path)
    assert row == {"question": "a\ufffdb \U0001f600", "\ufffd": [None, {"x": "\ufffd"}], "n": None}
    json.dumps(row, ensure_ascii=False).encode()  # every string is text again
    for form in ("[%s]", '{"data": [%s]}'):
        (tmp_path / "x.json").write_text(form % path.read_text())
        assert rows_of(tmp_path / "x.json") == [row]


def test_line_ends_of_all_kinds_end_lines_and_stay_within_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfquestion,answer\r\na,b\rc,d\n"e\rf\r\ng",h')
    assert [list(r.values()) for r in rows_of(path)] == [["a", "b"], ["c", "d"], ["e\rf\r\ng", "h"]]


def test_names_in_sentences_cannot_move_the_cursor():
    assert plain("a\x1b[2J\u202eb\nc") == "a\ufffd[2J\ufffdb\ufffdc"
    assert plain("x" * 100, 10) == "xxxxxxx..."


# Uploads


def test_a_fair_upload_is_read(tmp_path):
    path = tmp_path / "Meine Karten.csv"
    path.write_bytes('\ufeffquestion;answer\n"What; is\ngout?";Arthritis, à la carte\n\n'.encode())
    assert load_upload(path) == [{"question": "What; is\ngout?", "answer": "Arthritis, à la carte"}]
    path = tmp_path / "x.json"
    path.write_text('[{"question": "x", "n": NaN, "messages": [{"role": "user"}]}]')
    assert load_upload(path) == [{"question": "x", "n": None, "messages": [{"role": "user"}]}]


def test_an_upload_at_the_limits_is_read(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{"question": "x" * 8000, "answer": "y"}, *cards(19_999)])
    assert len(load_upload(path)) == 20_000


def test_an_upload_that_is_gone():
    with pytest.raises(DataError, match="gone"):
        load_upload("/no/such/file.csv")


# Files


def test_every_file_type_gives_the_same_rows(tmp_path):
    rows = cards(30, topic="eye")
    paths = [write_rows(tmp_path / f"x{s}", rows) for s in (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")]
    columns = tmp_path / "columns.json"
    columns.write_text(json.dumps({k: [r[k] for r in rows] for k in rows[0]}))
    wrapped = tmp_path / "wrapped.json"
    wrapped.write_text(json.dumps({"version": 1, "data": rows}))
    lines = tmp_path / "lines.json"
    lines.write_bytes((tmp_path / "x.jsonl").read_bytes())
    indented = tmp_path / "indented.json"
    indented.write_text(json.dumps(rows, indent=2))
    one = tmp_path / "one.json"
    one.write_text(json.dumps(rows[0], indent=1) + "\n")
    for path in (*paths, columns, wrapped, lines, indented):
        assert rows_of(path) == rows, path
    assert rows_of(one) == rows[:1]


def test_a_json_list_is_read_across_its_windows(tmp_path):
    # Numbers, escapes and characters of several bytes at every place where a window may cut.
    rows = [{"question": 'ä€😀\\"' * (i % 400), "answer": "x" * (i % 977), "n": 12345678.25} for i in range(2_000)]
    path = tmp_path / "x.json"
    path.write_text(" \n" + json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert path.stat().st_size > 4 * 2**18
    assert rows_of(path) == rows


def test_a_table_can_be_read_again_and_knows_its_first_rows(tmp_path):
    rows = cards(SAMPLE_ROWS + 50)
    table = table_of(write_rows(tmp_path / "x.csv", rows))
    assert table.sample == rows[:SAMPLE_ROWS]
    assert [r for r, _ in table.read()] == [r for r, _ in table.read()] == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json", ".parquet"])
def test_a_long_file_needs_the_memory_of_its_sample(tmp_path, suffix):
    # 20,000 rows of the sample are 24 MB; all 60,000 would be 72 MB.
    path = write_rows(
        tmp_path / f"x{suffix}", [{"question": f"{i}?", "answer": f"{i}" * 200} for i in range(10_000, 70_000)]
    )
    tracemalloc.start()
    table = table_of(path)
    assert sum(1 for _ in table.read()) == 60_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 45_000_000, peak


def test_a_sample_of_long_rows_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_SAMPLE_CHARS", 10_000)
    table = table_of(write_rows(tmp_path / "x.jsonl", [{"question": "x" * 1_000}] * 100))
    assert len(table.sample) == 11 and sum(1 for _ in table.read()) == 100


def test_the_fingerprint_follows_content_and_names(tmp_path):
    path = write_rows(tmp_path / "x.csv", cards(10))
    one = table_of(path).fingerprint
    assert one == table_of(path).fingerprint
    write_rows(path, cards(10, 1))
    other = table_of(path).fingerprint
    path.rename(tmp_path / "y.csv")  # the name is each example's source
    assert len({one, other, table_of(tmp_path / "y.csv").fingerprint}) == 3
    folder = tmp_path / "folder"
    folder.mkdir()
    write_rows(folder / "train.csv", cards(10))
    before = table_of(folder).fingerprint
    (folder / "train.csv").rename(folder / "test.csv")  # the same bytes are another split now
    assert table_of(folder).fingerprint != before and set(splits_of(folder)) == {"test"}


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in Linux's /proc")
@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "parquet", "xlsx", "saved"])
def test_a_reading_that_is_left_early_closes_its_files(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "saved":
        import datasets

        datasets.Dataset.from_list(cards(3_000)).save_to_disk(str(path))
    else:
        write_rows(path, cards(3_000))
    table_of(path)  # what is imported on the way stays open
    before = open_files()
    table = table_of(path)
    with closing(table.read()) as rows:
        next(rows)
        assert kind == "xlsx" or open_files() > before
    assert open_files() == before


def test_a_split_column_files_the_rows(tmp_path):
    path = write_rows(
        tmp_path / "x.csv", [*cards(3, Set="train_subset"), *cards(2, 3, Set="Dev"), *cards(1, 5, Set="")]
    )
    assert splits_of(path) == ["train"] * 3 + ["eval"] * 2 + [None]
    path = write_rows(tmp_path / "y.csv", cards(3, split="left\natrium"))
    table = table_of(path)
    assert {split for _, split in table.read()} == {None}
    assert any("was not taken as the split: it holds 'left\ufffdatrium'" in n for n in table.notes)


def test_a_split_that_shows_below_the_sample_is_training_data_and_said_once(tmp_path):
    rows = [*cards(SAMPLE_ROWS, split="test"), *cards(2, SAMPLE_ROWS, split="leftovers")]
    table = table_of(write_rows(tmp_path / "x.csv", rows))
    for _ in range(2):
        assert [split for _, split in table.read()][-3:] == ["test", "train", "train"]
    assert [n for n in table.notes if "names no split" in n] == [
        "x.csv: rows whose 'split' names no split were taken as training data."
    ]


# Parquet and Excel


def test_parquet_keeps_lists_structs_and_repeated_values(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "question": f"Q{i}?",
            "options": ["a", "b", None],
            "meta": {"cui": ["C1"], "n": i},
            "n": None if i % 2 else i,
            "kind": "same",
        }
        for i in range(3_000)
    ]
    table = pyarrow.Table.from_pylist(rows)
    table = table.set_column(4, "kind", table["kind"].dictionary_encode())
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=700)
    assert rows_of(tmp_path / "x.parquet") == rows


def test_parquet_whose_lists_outgrow_their_dictionary_is_read_whole(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"messages": [{"role": "user", "content": f"{i}" * 80}, {"role": "assistant", "content": f"{i}?" * 80}]}
        for i in range(10_000, 15_000)
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows),
        tmp_path / "x.parquet",
        row_group_size=2_600,
        dictionary_pagesize_limit=100_000,
        data_page_size=20_000,
        write_batch_size=50,
    )
    assert rows_of(tmp_path / "x.parquet") == rows


def test_arrow_rows_are_taken_in_slices_of_a_bearable_size(monkeypatch):
    import pyarrow

    monkeypatch.setattr(tablefiles, "_SLICE_BYTES", 1_000)
    cells = pyarrow.array(["x" * 300] * 40).dictionary_encode()
    batch = pyarrow.RecordBatch.from_arrays([cells], names=["q"])
    taken: list[int] = []
    assert len(list(tablefiles.rows_of_batch(batch, "x", taken.append))) == 40
    assert max(taken) <= 1_000 and 12_000 <= sum(taken) < 13_000
    whole = pyarrow.RecordBatch.from_arrays([pyarrow.array([["y" * 300] * 40])], names=["q"])
    with pytest.raises(DataError, match="has a row of"):
        list(tablefiles.rows_of_batch(whole, "x"))


def test_an_excel_sheet_may_have_a_title_gaps_and_a_wrong_range(tmp_path):
    import zipfile

    path = write_sheet(
        tmp_path / "x.xlsx",
        [
            ["Our cards, 2024"],
            [],
            ["Question", None, "Answer"],
            [],
            ["Why?", 3, "Because."],
            [None, None, None],
            ["How?", None, 7.5, "aside"],
        ],
    )
    rows = [
        {"Question": "Why?", "column_2": 3, "Answer": "Because."},
        {"Question": "How?", "column_2": None, "Answer": 7.5, "column_4": "aside"},
    ]
    assert rows_of(path) == rows
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(b'ref="A1:D7"', b'ref="A1:A5"')
    assert parts["xl/worksheets/sheet1.xml"] != sheet
    path.write_bytes(hostile._zip(parts))
    assert rows_of(path) == rows


# Folders


def test_a_folder_of_files_is_split_by_their_names(tmp_path):
    write_rows(tmp_path / "train-00000.jsonl", cards(30))
    write_rows(tmp_path / "validation.csv", cards(5, 30))
    (tmp_path / "more").mkdir()
    write_rows(tmp_path / "more" / "test.parquet", cards(4, 35))
    write_rows(tmp_path / "notes.xlsx", cards(2, 39))
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / ".hidden.csv").write_text("oops")
    table = table_of(tmp_path)
    found = [split for _, split in table.read()]
    assert {s: found.count(s) for s in set(found)} == {"train": 30, "eval": 5, "test": 4, None: 2}
    assert f"{tmp_path.name}: read from 4 files." in table.notes


def test_links_are_followed_within_a_folder_and_not_out_of_it(tmp_path):
    write_rows(tmp_path / "secret.csv", cards(3))
    folder = tmp_path / "folder"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "one").write_text("question\nx\n")
    (folder / "in.csv").symlink_to(folder / "blobs" / "one")
    (folder / "out.csv").symlink_to(tmp_path / "secret.csv")
    table = table_of(folder)
    assert [r for r, _ in table.read()] == [{"question": "x"}]
    assert any("1 links that lead out of the folder" in n for n in table.notes)


def test_saved_datasets_are_read_with_their_splits(tmp_path):
    import datasets

    parts = {
        "train": datasets.Dataset.from_list(cards(30)),
        "test": datasets.Dataset.from_list(cards(5, 30)),
        "exam": datasets.Dataset.from_list(cards(2, 35)),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "several"))
    parts["train"].select(range(3, 9)).save_to_disk(str(tmp_path / "one"))
    table = table_of(tmp_path / "several")
    assert [s for _, s in table.read()] == ["train"] * 30 + ["test"] * 5 + [None] * 2
    assert "several: the split 'exam' was taken as training data." in table.notes
    assert rows_of(tmp_path / "several") == cards(37)
    assert rows_of(tmp_path / "one") == cards(6, 3)
    chosen = table_of(tmp_path / "several", split="test")
    assert [r for r, _ in chosen.read()] == cards(5, 30) and chosen.fingerprint != table.fingerprint
    with pytest.raises(DataError, match="has no split 'dev'; it has these: train, test, exam"):
        table_of(tmp_path / "several", split="dev")


def test_a_split_is_not_chosen_in_silence_where_there_is_none(tmp_path):
    for dataset in (write_rows(tmp_path / "x.csv", cards(3)), "starter"):
        with pytest.raises(DataError, match="has no splits to choose from"):
            table_of(dataset, split="train")


# MedQuAD's XML

DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000001" source="NIH" url="https://example.org/gout">
<Focus>Gout</Focus>
<FocusAnnotations>
  <Category>Disease</Category>
  <UMLS><CUIs><CUI>C1</CUI><CUI>C2</CUI></CUIs><SemanticTypes><SemanticType>T047</SemanticType></SemanticTypes>
  <SemanticGroup>Disorders</SemanticGroup></UMLS>
  <Synonyms><Synonym>Podagra</Synonym></Synonyms>
</FocusAnnotations>
<QAPairs>
  <QAPair pid="1"><Question qid="0000001-1" qtype="information">What is Gout ?</Question>
    <Answer>
      Pain &amp; swelling, &lt;3 days.</Answer></QAPair>
  <QAPair pid="2"><Question qid="0000001-2" qtype="treatment">How is Gout treated ?</Question><Answer/></QAPair>
</QAPairs>
</Document>"""


def test_medquad_documents_are_rows(tmp_path):
    folder = tmp_path / "1_NIH_QA"
    folder.mkdir()
    (folder / "0000001.xml").write_text(DOCUMENT)
    about = {
        "collection": "1_NIH_QA",
        "document_id": "0000001",
        "source": "NIH",
        "url": "https://example.org/gout",
        "focus": "Gout",
        "category": "Disease",
        "umls_cui": ["C1", "C2"],
        "semantic_types": ["T047"],
        "semantic_group": "Disorders",
        "synonyms": ["Podagra"],
    }
    rows = [
        {
            **about,
            "pid": "1",
            "qid": "0000001-1",
            "qtype": "information",
            "question": "What is Gout ?",
            "answer": "Pain & swelling, <3 days.",
        },
        {
            **about,
            "pid": "2",
            "qid": "0000001-2",
            "qtype": "treatment",
            "question": "How is Gout treated ?",
            "answer": "",
        },
    ]
    assert rows_of(folder / "0000001.xml") == rows_of(folder) == rows_of(tmp_path) == rows
    (tmp_path / "page.xml").write_text("<html/>")
    table = table_of(tmp_path)
    assert len(list(table.read())) == 2
    assert any("1 XML files are not MedQuAD documents" in n for n in table.notes)


def test_a_medquad_document_is_read_whatever_its_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("medassist.data.medquad._CHUNK", 7)
    (tmp_path / "1.xml").write_text(DOCUMENT.replace("Gout", "Göut"), encoding="utf-8")
    assert [r["question"] for r in rows_of(tmp_path / "1.xml")] == ["What is Göut ?", "How is Göut treated ?"]


# The Hub, through its real client against a stand-in

FETCH = """
import json, sys, time
from contextlib import closing
from medassist.config import DatasetConfig
from medassist.data import hub
from medassist.data.load import load_table
from medassist.errors import DataError
for settings in json.loads(sys.argv[1]):
    most = settings.pop("rows_wanted", None)
    hub._STREAM_BYTES = settings.pop("stream_bytes", hub._STREAM_BYTES)
    started = time.perf_counter()
    try:
        table, _ = load_table(DatasetConfig(**settings))
        rows, splits = [], {}
        with closing(table.read()) as reading:
            for row, split in reading:
                rows.append(row)
                splits[str(split)] = splits.get(str(split), 0) + 1
                if len(rows) == most:
                    break
        found = {"id": table.id, "rows": len(rows), "splits": splits, "first": rows[0]["question"], "notes": table.notes,
                 "licence": table.licence, "fingerprint": table.fingerprint, "sample": len(table.sample)}
    except DataError as error:
        found = {"message": error.message, "next_step": error.next_step}
    print(json.dumps({**found, "elapsed_s": time.perf_counter() - started}))
"""


def fetch(env, *datasets):
    """What `load_table` finds for each, in one process of its own."""
    out = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(datasets)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    return [json.loads(line) for line in out.stdout.splitlines()]


def test_hub_datasets_come_in_or_say_why_not(tmp_path):
    with HubServer(tmp_path / "hub") as server:
        rows = write_rows(tmp_path / "rows.parquet", cards(20, Question="Why?")).read_bytes()
        more = write_rows(tmp_path / "test.parquet", cards(5, 20, Question="Why?")).read_bytes()
        for name in ("ann/cards", "ann/gated", "ann/locked", "ann/busy"):
            server.add_file("datasets", name, "data/train-00000-of-00001.parquet", rows)
            server.add_file("datasets", name, "README.md", "---\nlicense: cc-by-4.0\n---\n# Cards\n")
        server.add_file("datasets", "ann/cards", "data/test-00000-of-00001.parquet", more)
        server.add_file(
            "datasets",
            "keivalya/MedQuad-MedicalQnADataset",
            "medDataset_processed.csv",
            write_rows(tmp_path / "medquad.csv", cards(9)).read_bytes(),
        )
        outside = f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path / 'medquad.csv'}\n---\n"
        server.add_file("datasets", "ann/outside", "README.md", outside)
        server.add_file("datasets", "ann/code", "code.py", "raise SystemExit")
        server.add_file("datasets", "ann/words", "README.md", "# No data\n")
        server.add_file("datasets", "ann/photos", "train/eye/1.png", b"\x89PNG")
        server.fail(r"ann/gated/resolve/", status=401, code="GatedRepo")
        server.fail(r"ann/locked", status=403)
        server.fail(r"ann/busy", status=429)
        env = server.env(tmp_path / "home")
        sha = server.sha("datasets", "ann/cards")
        refused = {
            "is gated": {"id": "ann/gated"},
            "is gated:": {"id": "ann/locked"},
            "has no dataset ann/nothing": {"id": "ann/nothing"},
            "status 429": {"id": "ann/busy"},
            "outside its own repository": {"id": "ann/outside"},
            "needs code of its own": {"id": "ann/code"},
            "no files that can be read": {"id": "ann/words"},
            "is not a table": {"id": "ann/photos"},
            "no revision 'v9'": {"id": "ann/cards", "revision": "v9"},
            "no subset 'german'": {"id": "ann/cards", "subset": "german"},
            "no split 'dev'; it has these: train, test": {"id": "ann/cards", "split": "dev"},
        }
        good, at_commit, medquad, *answers = fetch(
            env, {"id": "ann/cards"}, {"id": "ann/cards", "revision": sha}, {"id": "medquad"}, *refused.values()
        )
        assert good["splits"] == {"train": 20, "test": 5} and good["licence"] == "cc-by-4.0"
        assert at_commit["splits"] == good["splits"]
        assert medquad["id"] == "keivalya/MedQuad-MedicalQnADataset" and "CC-BY-4.0" in medquad["licence"]
        for words, answer in zip(refused, answers, strict=True):
            assert words in answer["message"] and answer["next_step"] and answer["elapsed_s"] < 10, answer
        assert "set HF_TOKEN" in answers[0]["next_step"]
        # What was fetched once is there without the Hub; what was not is said to be missing.
        offline = {**env, "HF_HUB_OFFLINE": "1"}
        cached, part, streamed, missing = fetch(
            offline,
            {"id": "ann/cards"},
            {"id": "ann/cards", "split": "test"},
            {"id": "ann/cards", "streaming": "on"},
            {"id": "ann/other"},
        )
        assert cached["first"] == good["first"] and part["splits"] == {"test": 5}
        assert any("read from the local copy" in n for n in streamed["notes"])
        assert "HF_HUB_OFFLINE is set" in missing["message"]


def test_subsets_and_splits_of_the_hub_are_chosen_by_name(tmp_path):
    configs = "\n".join(
        f"- config_name: {c}\n  data_files:\n  - {{split: train, path: {c}/train.jsonl}}\n"
        f"  - {{split: exam, path: {c}/exam.jsonl}}"
        for c in ("de", "en")
    )
    with HubServer(tmp_path / "hub") as server:
        server.add_file("datasets", "ann/two", "README.md", f"---\nlicense: [mit, cc0-1.0]\nconfigs:\n{configs}\n---\n")
        for name, count in (("de/train", 30), ("de/exam", 10), ("en/train", 7), ("en/exam", 3)):
            rows = write_rows(
                tmp_path / "x.jsonl", [{**r, "question": f"{name} {r['question']}"} for r in cards(count)]
            )
            server.add_file("datasets", "ann/two", f"{name}.jsonl", rows.read_bytes())
        all_of_de, exam, streamed, english, none = fetch(
            server.env(tmp_path / "home"),
            {"id": "ann/two", "subset": "de"},
            {"id": "ann/two", "subset": "de", "split": "exam"},
            {"id": "ann/two", "subset": "de", "split": "exam", "streaming": "on"},
            {"id": "ann/two", "subset": "en", "split": "train"},
            {"id": "ann/two"},
        )
    assert all_of_de["rows"] == 40 and all_of_de["licence"] == "mit, cc0-1.0"
    assert "ann/two: the split 'exam' was taken as training data." in all_of_de["notes"]
    assert exam["rows"] == streamed["rows"] == 10 and exam["first"] == streamed["first"] == "de/exam What is finding 0?"
    assert english["first"].startswith("en/train") and english["rows"] == 7
    assert "several subsets" in none["message"]
    assert len({f["fingerprint"] for f in (all_of_de, exam, english)}) == 3


def test_streaming_transfers_only_what_is_asked_for(tmp_path):
    with HubServer(tmp_path / "hub") as server:
        for part in range(5):
            rows = [{"question": f"{part}/{i}?", "answer": os.urandom(500).hex()} for i in range(1_000)]
            server.add_file(
                "datasets",
                "ann/big",
                f"data/train-{part:05}-of-00005.parquet",
                write_rows(tmp_path / "x.parquet", rows).read_bytes(),
            )
            server.add_file(
                "datasets",
                "ann/split",
                f"{('train', 'test')[part % 2]}-{part}.parquet",
                (tmp_path / "x.parquet").read_bytes(),
            )
        size = sum(len(c) for c in server.files("datasets", "ann/big").values())
        env = server.env(tmp_path / "home")
        wanted = {"id": "ann/big", "max_rows": 50, "rows_wanted": 60, "stream_bytes": size - 1}
        (one,) = fetch(env, {**wanted, "streaming": "on"})
        assert one["rows"] == 60 and one["sample"] == 200
        assert 0 < server.sent() < size / 2, (server.sent(), size)
        assert any("read as a stream" in n for n in one["notes"])
        # Left to itself it streams what is large, when the first rows of one split are all that is wanted.
        same, several = fetch(env, wanted, {**wanted, "id": "ann/split", "split": "test", "stream_bytes": 10})
        assert same["fingerprint"] == one["fingerprint"] and same["first"] == one["first"]
        assert server.sent("ann/big") < size and any("read as a stream" in n for n in same["notes"])
        assert several["splits"] == {"test": 60} and any("read as a stream" in n for n in several["notes"])
        sent = server.sent("ann/big")
        whole = fetch(
            env,
            {**wanted, "streaming": "off"},
            {**wanted, "stream_bytes": size},
            {**wanted, "select": "random"},
            {**wanted, "max_rows": None},
            {**wanted, "id": "ann/split", "stream_bytes": 10},
        )
        assert server.sent("ann/big") - sent >= size
        assert not any("read as a stream" in n for found in whole for n in found["notes"])
        assert any("since it has several splits" in n for n in whole[-1]["notes"])


def test_a_connection_that_breaks_while_rows_are_read_is_one_sentence(tmp_path):
    with HubServer(tmp_path / "hub") as server:
        for part in range(2):
            server.add_file(
                "datasets",
                "ann/cards",
                f"train-{part}.jsonl",
                write_rows(tmp_path / "x.jsonl", cards(300, part * 300)).read_bytes(),
            )
        server.fail(r"resolve/[0-9a-f]{40}/train-1", status=403)
        (found,) = fetch(server.env(tmp_path / "home"), {"id": "ann/cards", "streaming": "on", "max_rows": 400})
    assert found["message"].endswith(".") and "ann/cards" in found["message"] and found["next_step"]


def test_files_outside_a_datasets_own_repository_are_refused():
    builder = type("Csv", (), {"__module__": "datasets.packaged_modules.csv.csv"})()
    for file, fair in (("hf://datasets/ann/cards@abc/x.csv", True), ("https://example.org/x.csv", False)):
        builder.config = SimpleNamespace(data_files={"train": [file]})
        if fair:
            hub._check_builder(builder, "ann/cards")
        else:
            with pytest.raises(DataError, match="outside its own repository"):
                hub._check_builder(builder, "ann/cards")


def test_no_network_is_one_sentence_within_seconds(tmp_path):
    env = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    (answer,) = fetch(env, {"id": "ann/cards"})
    assert "could not be reached" in answer["message"] and "local file" in answer["next_step"]
    assert answer["elapsed_s"] < 10
