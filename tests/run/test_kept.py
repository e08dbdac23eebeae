# ruff: noqa: F811 (fixtures come by name)
"""Nothing of the user's is lost: neither files beside what is written, nor inputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from serve_runs import encoder, saved  # noqa: F401

from recbole_llmemb.cli.main import main
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.reports import OutFolder

# -- folders that are written again ---------------------------------------------------------


def theirs(folder):
    """Put files, a folder, an empty folder and links of somebody's into a folder; what they are."""
    folder = Path(folder)
    (folder / "notes.txt").write_text("years of work")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "a.txt").write_text("more of it")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("notes.txt")
    (folder / "way").symlink_to("deep")
    return look_at(folder, ("notes.txt", "deep/er/a.txt", "empty", "link", "way"))


def look_at(folder, names):
    found = {}
    for name in names:
        path = Path(folder) / name
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.is_dir() or (path.read_text(), path.stat().st_ino)
    return found


@pytest.fixture
def ratings(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,time\nu,a,1\nu,b,2\nv,a,1\n")
    (tmp_path / "more.csv").write_text("user,item,time\nu,a,1\nu,b,2\nv,a,1\nv,c,5\n")
    (tmp_path / "titles.csv").write_text("item,title\na,red\nb,blue\nc,gel\n")
    return path


def convert(*more, ratings="ratings.csv", out="dataset/mine"):
    options = ["--min_user=1", "--min_item=1", "--show_progress=False"]
    return main(["convert", f"--interactions={ratings}", f"--out={out}", *options, *more])


def test_converting_again_keeps_what_lies_beside(ratings, capsys):
    assert convert("--items=titles.csv") == 0
    before = theirs("dataset/mine")
    os.chmod("dataset/mine/deep", 0o700)
    assert convert("--overwrite", ratings="more.csv") == 0
    assert look_at("dataset/mine", before) == before
    assert os.stat("dataset/mine/deep").st_mode & 0o777 == 0o700
    assert "v\tc\t5" in Path("dataset/mine/mine.inter").read_text()
    # The .item file of the first time was made by it, and is none of the second.
    names = {"mine.inter", "mine.yaml", "notes.txt", "deep", "empty", "link", "way"}
    assert set(os.listdir("dataset/mine")) == names
    assert os.listdir("dataset") == ["mine"]


def test_what_lies_beside_is_copied_where_there_are_no_hard_links(ratings, monkeypatch, capsys):
    assert convert() == 0
    before = theirs("dataset/mine")

    def none(*arguments, **options):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert convert("--overwrite", ratings="more.csv") == 0
    after = look_at("dataset/mine", before)
    for name in ("notes.txt", "deep/er/a.txt"):
        assert after.pop(name)[0] == before.pop(name)[0]
    assert after == before


def test_a_users_own_file_of_the_dataset_is_not_replaced(ratings, capsys):
    assert convert() == 0
    own = Path("dataset/mine/mine.item")
    own.write_text("item_id:token\ttitle:token_seq\na\tmy own words\n")
    was = Path("dataset/mine/mine.inter").read_text()
    assert convert("--overwrite", "--items=titles.csv", ratings="more.csv") == 2
    assert "mine.item is in the way" in capsys.readouterr().err
    assert "my own words" in own.read_text()
    assert Path("dataset/mine/mine.inter").read_text() == was
    assert convert("--overwrite", ratings="more.csv") == 0
    assert "my own words" in own.read_text()


def test_exporting_again_keeps_what_lies_beside(saved, capsys):
    command = ["export", f"--checkpoint={saved()}", "--out=served", "--what=items,users,table"]
    assert main(command) == 0
    before = theirs("served")
    Path("served/table/comment.txt").write_text("of theirs")
    assert main([*command[:-1], "--what=items", "--overwrite"]) == 0
    assert look_at("served", before) == before
    assert Path("served/table/comment.txt").read_text() == "of theirs"
    kept = {"notes.txt", "deep", "empty", "link", "way", "table"}
    assert set(os.listdir("served")) - kept == {"export.json", "items.txt", "items.safetensors"}
    Path("served/users.txt").write_text("theirs")
    assert main([*command[:-1], "--what=users", "--overwrite"]) == 2
    assert "users.txt is in the way" in capsys.readouterr().err
    assert Path("served/users.txt").read_text() == "theirs"


def test_a_folder_in_the_place_of_a_file_is_somebodys(saved, capsys):
    """What lies in it is kept; where the file is to come again, the command is refused."""
    command = ["export", f"--checkpoint={saved()}", "--out=served", "--overwrite"]
    assert main([*command, "--what=items,users"]) == 0
    for name in ("items.safetensors", "users.txt"):
        os.remove(f"served/{name}")
        Path("served", name, "deep").mkdir(parents=True)
        Path("served", name, "deep", "mine.txt").write_text("mine")
    assert main([*command, "--what=items"]) == 2
    assert "served/items.safetensors is in the way" in capsys.readouterr().err
    shutil.rmtree("served/items.safetensors")
    Path("served/items.safetensors").mkdir()  # with nothing in it
    assert main([*command, "--what=items"]) == 0
    assert Path("served/items.safetensors").is_file()
    assert Path("served/users.txt/deep/mine.txt").read_text() == "mine"


def test_an_export_has_its_own_files_alone(saved):
    """Whatever a list says that somebody has changed."""
    command = ["export", f"--checkpoint={saved()}", "--out=served", "--what=items"]
    assert main(command) == 0
    facts = json.loads(Path("served/export.json").read_text())
    facts.pop("sha256", None)
    facts["written"] += ["mine.txt", "../mine.txt", "table/../../mine.txt"]
    Path("served/export.json").write_text(json.dumps(facts))
    for path in (Path("served/mine.txt"), Path("mine.txt")):
        path.write_text("mine")
    assert main([*command, "--overwrite"]) == 0
    assert Path("served/mine.txt").read_text() == Path("mine.txt").read_text() == "mine"


def test_tables_and_figures_are_all_written_or_none(tmp_path):
    out = OutFolder(tmp_path, "x.json", r"x\.json|.*\.md")
    listing = json.dumps({"files": ["x.json", "a.md", "b.md"]}).encode()
    out.write({"x.json": listing, "a.md": b"1", "b.md": b"1"})
    (tmp_path / "b.md").unlink()
    (tmp_path / "b.md").mkdir()
    (tmp_path / "b.md" / "mine.txt").write_text("mine")
    again = listing.replace(b" ", b"")
    with pytest.raises(UserError, match="b.md"):
        OutFolder(tmp_path, "x.json", r"x\.json|.*\.md").write(
            {"x.json": again, "a.md": b"2", "b.md": b"2"}
        )
    assert (tmp_path / "x.json").read_bytes() == listing and (tmp_path / "a.md").read_text() == "1"


def test_a_pipe_in_the_place_of_a_list_of_files_is_not_read(ratings, tmp_path):
    assert convert() == 0
    os.remove("dataset/mine/mine.yaml")
    os.mkfifo("dataset/mine/mine.yaml")
    assert convert("--overwrite", ratings="more.csv") == 2
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(UserError, match="x.json"):
        OutFolder(tmp_path, "x.json", r"x\.json")


def test_fine_tuning_again_keeps_what_lies_beside(tmp_path, capsys):
    from encode_models import make_model, write_dataset

    pytest.importorskip("peft")
    write_dataset(tmp_path)
    encoder = make_model(tmp_path / "encoder", "bert")
    command = ["scft", "--dataset=tiny", f"--data_path={tmp_path}", f"--encoder={encoder}",
               "--steps=1", "--batch_size=2", "--holdout=0", "--out=adapter"]  # fmt: skip
    assert main(command) == 0
    before = theirs("adapter")
    assert main([*command, "--seed=3"]) == 2  # there is one already
    assert main([*command, "--seed=3", "--overwrite"]) == 0
    assert look_at("adapter", before) == before
    listed = json.loads(Path("adapter/scft.json").read_text())["files"]
    assert set(os.listdir("adapter")) == set(listed) | {n.split("/")[0] for n in before}


# -- folders of reports ----------------------------------------------------------------------


def result(path, seed=1):
    curve = [{"epoch": e, "train_loss": [1.0], "valid_score": 0.1, "seconds": 1.0} for e in (0, 1)]
    content = {"model": "M", "dataset": "d", "seed": seed, "test_result": {"ndcg@10": 0.1},
               "curve": curve, "seconds": {"train": 1.0}}  # fmt: skip
    Path(path).write_text(json.dumps(content))


@pytest.mark.parametrize("page", ["<script>{}</script>", "<p>\n<!-- {} -->"])
def test_a_page_of_others_is_no_list_of_ours(page, capsys):
    result("a.json")
    Path("out").mkdir()
    Path("out/report.html").write_text(page.format('files: ["table.md", "report.html"]'))
    Path("out/table.md").write_text("mine")
    before = look_at("out", ["report.html", "table.md"])
    assert main(["compare", "a.json", "--map=none", "--out=out"]) == 2
    assert str(Path("out/report.html")) in capsys.readouterr().err
    assert look_at("out", os.listdir("out")) == before


@pytest.mark.parametrize("name", ["report.html", "table.md", "table.tex"])
def test_a_comparison_replaces_only_its_own(name, capsys):
    result("a.json")
    Path("out").mkdir()
    Path("out", name).write_text("<html>files: of mine</html>")
    Path("out/notes.txt").write_text("mine")
    assert main(["compare", "a.json", "--out=out"]) == 2
    assert str(Path("out", name)) in capsys.readouterr().err
    assert Path("out", name).read_text() == "<html>files: of mine</html>"
    assert sorted(os.listdir("out")) == sorted(["notes.txt", name])
    Path("out", name).unlink()
    assert main(["compare", "a.json", "--out=out"]) == 0
    first = {str(f): f.stat().st_mtime_ns for f in Path("out").rglob("*") if f.is_file()}
    result("b.json", seed=2)
    Path("out/figures/mine.svg").write_bytes(b"mine")
    assert main(["compare", "a.json", "b.json", "--out=out"]) == 0
    again = {str(f): f.stat().st_mtime_ns for f in Path("out").rglob("*") if f.is_file()}
    same = {file for file in first if first[file] == again.get(file)}
    assert same == {"out/notes.txt"} and Path("out/figures/mine.svg").read_bytes() == b"mine"


def test_figures_of_an_earlier_comparison_do_not_stay():
    result("a.json")
    assert main(["compare", "a.json", "--out=out"]) == 0
    assert Path("out/figures/learning_curves.svg").is_file()
    content = json.loads(Path("a.json").read_text())
    content.pop("curve")
    Path("a.json").write_text(json.dumps(content))
    assert main(["compare", "a.json", "--out=out"]) == 0
    assert not Path("out/figures/learning_curves.svg").exists()


def test_an_order_test_replaces_only_its_own(saved, capsys):
    Path("out").mkdir()
    command = ["order-test", f"--checkpoint={saved()}", "--shuffles=1", "--quiet", "--out=out"]
    for name in ("order.json", "order.md", "order.svg"):
        Path("out", name).write_text('{"files": []}')
        assert main(command) == 2
        assert f"out/{name}" in capsys.readouterr().err
        assert Path("out", name).read_text() == '{"files": []}'
        Path("out", name).unlink()
    assert main(command) == 0
    assert main(command) == 0


def test_a_search_begins_in_no_folder_of_something_else(tmp_path):
    from recbole_llmemb.apps.tune.searching import Storage

    pytest.importorskip("pyarrow")
    folder = tmp_path / "tune" / "mine"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text("mine: 1")
    with pytest.raises(UserError, match="best.yaml"):
        Storage(str(tmp_path / "tune"), "mine").require_same_search({"space": 1}, resume=False)
    assert (folder / "best.yaml").read_text() == "mine: 1"


# -- outputs that are inputs -----------------------------------------------------------------


def spellings(path):
    """The same file under its name, another way there, a link, and a hard link."""
    path = Path(path)
    os.symlink(path, "soft")
    os.link(path, "hard")
    here = Path(os.path.relpath(path))
    return [str(path), str(here), f"{here.parent}/./../{here.parent.resolve().name}/{here.name}",
            "soft", "hard"]  # fmt: skip


def is_refused(command, kept, capsys):
    """The command exits with 2, names its output in a sentence, and changes nothing."""
    before = {file: Path(file).read_bytes() for file in kept}
    status = main(command)
    told = capsys.readouterr().err
    named = "what is read" in told or "something else than" in told
    assert status == 2 and named and len(told.strip().splitlines()) == 1, told
    assert {file: Path(file).read_bytes() for file in kept} == before


def test_recommendations_replace_no_input(saved, tiny, tiny_table, tmp_path, capsys):
    path = saved()
    Path("people.jsonl").write_text('{"user": "anna", "history": ["i1"]}\n')
    Path("new.item").write_text("item_id:token\ttitle:token_seq\nnew\tred\n")
    Path("some.txt").write_text("i1\ni2\n")
    command = ["recommend", f"--checkpoint={path}", "--format=jsonl"]
    for output in spellings(path):
        is_refused([*command, "--users=u3", f"--out={output}"], [path], capsys)
    read = [*command, "--history_file=people.jsonl"]
    is_refused([*read, "--out=people.jsonl"], ["people.jsonl"], capsys)
    is_refused([*read, "--candidates=some.txt", "--out=./some.txt"], ["some.txt"], capsys)
    is_refused([*read, "--new_items=new.item", "--out=new.item"], ["new.item"], capsys)
    for file in (tiny.folder / "tiny.inter", tiny.folder / "tiny.item", tiny_table / "items.txt"):
        is_refused([*read, f"--out={file}"], [file], capsys)
    assert main([*read, "--out=found.jsonl"]) == main([*read, "--out=found.jsonl"]) == 0


def test_results_replace_no_input(tiny_settings, tiny, tiny_table, saved, capsys):
    import yaml

    teacher = saved(item_embedding="id")
    settings = tiny_settings("LLMEmbSASRec", epochs=1)
    settings |= {"align_teacher": str(teacher), "align_weight": 0.1, "save_users": True}
    Path("my.yaml").write_text(yaml.safe_dump(settings))
    command = ["run", "--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=my.yaml"]
    inputs = ["my.yaml", tiny.folder / "tiny.inter", tiny.folder / "tiny.item", teacher,
              tiny_table / "manifest.json", tiny_table / "embeddings.safetensors"]  # fmt: skip
    for file in inputs:
        is_refused([*command, f"--result_json={file}"], [file], capsys)
    for output in spellings("my.yaml"):
        is_refused([*command, f"--result_json={output}"], ["my.yaml"], capsys)
    Path("r.users.safetensors").write_bytes(b"mine")
    assert main([*command, "--result_json=r.json"]) == 2
    assert "r.users.safetensors" in capsys.readouterr().err
    assert Path("r.users.safetensors").read_bytes() == b"mine"


def test_stock_models_replace_no_input(tiny_settings, tiny, capsys):
    file = tiny.folder / "tiny.inter"
    command = ["run", "--model=SASRec", "--dataset=tiny", f"--data_path={tiny.folder.parent}",
               "--train_neg_sample_args=None"]  # fmt: skip
    is_refused([*command, f"--result_json={file}"], [file], capsys)


@pytest.mark.parametrize("name", ["notes.txt", "history.jsonl", "package.json", "other.parquet"])
def test_files_of_something_else_are_not_replaced(name, saved, tiny_settings, capsys):
    own = Path(name)
    if name == "other.parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").table({"a": [1]}), own)
    else:
        own.write_text('{"user": "anna", "history": []}\n' if "js" in name else "years\nof work\n")
    was = own.read_bytes()
    path = saved()
    assert main(["recommend", f"--checkpoint={path}", "--users=u3", f"--out={own}"]) == 2
    assert name in capsys.readouterr().err and own.read_bytes() == was
    run = ["run", "--model=LLMEmbSASRec", "--dataset=tiny", f"--result_json={own}"]
    assert main(run) == 2
    assert name in capsys.readouterr().err and own.read_bytes() == was


@pytest.mark.parametrize("form", ["table", "jsonl", "parquet"])
def test_recommendations_replace_recommendations(form, saved, capsys):
    pytest.importorskip("pyarrow")
    command = ["recommend", f"--checkpoint={saved()}", "--users=u3", "--out=found"]
    Path("found").touch()
    assert main([*command, f"--format={form}"]) == 0
    assert main([*command, "--format=table", "--topk=3"]) == 0
    assert Path("found").read_text().startswith("u3\n")


def test_a_picture_of_somebodys_is_not_replaced(capsys):
    from recbole_llmemb.scft.figure import check_figure

    pyplot = pytest.importorskip("matplotlib.pyplot")
    for kind in ("png", "pdf", "svg"):
        Path(f"a.{kind}").write_bytes(b"of mine")
        with pytest.raises(UserError, match=f"a.{kind}"):
            check_figure(f"a.{kind}")
        figure = pyplot.figure()
        figure.savefig(f"a.{kind}")
        pyplot.close(figure)
        check_figure(f"a.{kind}")


def test_folders_replace_no_input(saved, ratings, tiny, tiny_table, tmp_path, capsys):
    path = saved()
    assert main(["export", f"--checkpoint={path}", "--out=served", "--what=items,table"]) == 0
    moved = Path("served/model.pth")
    moved.write_bytes(path.read_bytes())
    again = ["export", "--out=served", "--overwrite", "--what=items"]
    is_refused([*again, "--checkpoint=served/model.pth"], [moved], capsys)
    kept = Path("served/table/embeddings.safetensors")
    is_refused([*again, f"--checkpoint={path}", "--llm_table=served/table"], [kept], capsys)
    Path("way").symlink_to("served")
    is_refused([*again, "--checkpoint=way/model.pth"], [moved], capsys)

    assert convert() == 0
    inter = "dataset/mine/mine.inter"
    own = ["--overwrite", "--user=user_id:token", "--item=item_id:token", "--time=timestamp:float"]
    command = ["convert", f"--interactions={inter}", "--out=dataset/mine", *own]
    is_refused(command, [inter], capsys)
    command = ["convert", "--interactions=ratings.csv", f"--items={inter}", "--out=dataset/mine"]
    is_refused([*command, "--overwrite"], [inter], capsys)

    vectors = tiny_table / "embeddings.safetensors"
    command = ["encode", f"--import={vectors}", f"--out={tiny_table}", "--overwrite"]
    is_refused(command, [vectors], capsys)
    command = ["encode", "--dataset=tiny", f"--data_path={tiny.folder.parent}", "--overwrite"]
    is_refused([*command, f"--out={tiny.folder}"], [tiny.folder / "tiny.item"], capsys)


def test_a_separator_is_no_folder_that_is_read(tiny_config, tmp_path):
    from recbole_llmemb.core.files import inputs_of, refuse_inputs

    config = tiny_config(seq_separator="/", item_prompt=".")
    Path("old.json").write_text("{}")
    refuse_inputs(tmp_path / "old.json", inputs_of(config))


# -- writing that is cut short ---------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
def test_an_overwrite_that_is_stopped_loses_nothing(ratings, monkeypatch, step, capsys):
    """Between its renames, too, and by whatever stops it."""
    assert convert() == 0
    before = theirs("dataset/mine")
    was, rename, count = Path("dataset/mine/mine.inter").read_text(), os.rename, []

    def stopped(*paths):
        count.append(paths)
        if len(count) == step:
            raise KeyboardInterrupt
        rename(*paths)

    monkeypatch.setattr(os, "rename", stopped)
    assert convert("--overwrite", ratings="more.csv") == 130
    assert len(count) >= step
    assert look_at("dataset/mine", before) == before
    assert Path("dataset/mine/mine.inter").read_text() == was
    assert os.listdir("dataset") == ["mine"]


def test_an_overwrite_that_was_killed_is_undone_by_the_next(ratings, monkeypatch, capsys):
    assert convert() == 0
    before, rename, count = theirs("dataset/mine"), os.rename, []

    def killed(*paths):
        count.append(paths)
        if len(count) > 1:
            raise OSError(5, "killed")
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        assert convert("--overwrite", ratings="more.csv") == 2
    assert not Path("dataset/mine").exists()
    assert convert(ratings="more.csv") == 2  # without --overwrite
    assert look_at("dataset/mine", before) == before
    assert convert("--overwrite", ratings="more.csv") == 0
    assert look_at("dataset/mine", before) == before
    assert os.listdir("dataset") == ["mine"]


def test_folders_that_cannot_be_looked_into_are_not_lost(ratings, monkeypatch, capsys):
    assert convert() == 0
    before, scan = theirs("dataset/mine"), os.scandir

    def some(path):
        if str(path).endswith("/deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", some)
        assert convert("--overwrite", ratings="more.csv") == 2
    assert "deep" in capsys.readouterr().err
    assert look_at("dataset/mine", before) == before


def test_a_listing_names_files_of_its_folder_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    names = ["figures/a.png", "../mine/b.png", str(tmp_path / "mine" / "c.png")]
    for name in "abc":
        (tmp_path / "mine" / f"{name}.png").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "figures").symlink_to("../mine")
    (out / ".probe").write_text("mine")
    (out / "x.json").write_text(json.dumps({"files": [*names, ".probe", "x.json", "old.md"]}))
    (out / "old.md").write_text("of an earlier run")
    ours = r"x\.json|old\.md|.*\.png"
    OutFolder(out, "x.json", ours).write({"x.json": b"{}"})
    assert sorted(os.listdir(tmp_path / "mine")) == ["a.png", "b.png", "c.png"]
    assert sorted(os.listdir(out)) == [".probe", "figures", "x.json"]
    (out / "x.json").write_text('{"files": [1, {"a": 1}]}')
    with pytest.raises(UserError, match="x.json"):
        OutFolder(out, "x.json", ours)


def test_interrupted_work_of_other_tables_stays(tiny, encoder, capsys):
    work = Path(".other.work-0")
    work.mkdir()
    (work / "shard").write_text("hours of it")
    data = ["--dataset=tiny", f"--data_path={tiny.folder.parent}", f"--encoder={encoder}"]
    assert main(["encode", *data, "--out=*"]) == 0
    assert (work / "shard").read_text() == "hours of it" and Path("*").is_dir()
