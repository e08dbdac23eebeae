"""The studies behind the documented results: which runs they name, and which one they choose."""

import json
import statistics
import subprocess
import sys
from functools import partial

import pytest
import torch
import yaml
from conftest import child_env
from scipy import stats

from benchmarks import (
    alignment_study,
    beauty_study,
    cold_study,
    llmsrec_study,
    measures_study,
    paired,
    scft_study,
    study,
    time_to_score,
    timing,
    variants_study,
)
from recbole_llmemb.cli.main import main
from recbole_llmemb.cli.run import parse
from recbole_llmemb.config.recbole_config import preset_file
from recbole_llmemb.config.values import bundled_names, read_settings
from recbole_llmemb.run.per_user import read_users
from recbole_llmemb.run.restore import restore
from recbole_llmemb.run.result import users_file_of
from recbole_llmemb.run.schema import refuse_typed
from recbole_llmemb.table import EmbeddingTable

cosine = partial(torch.cosine_similarity, dim=0)


def write(out, name, overall, tail):
    result = {
        "best_valid_result": {"ndcg@10": overall},
        "valid_groups": {"tail_items": {"ndcg@10": tail}},
    }
    (out / f"{name}.json").write_text(json.dumps(result))


def test_a_setting_is_chosen_on_validation(tmp_path):
    assert variants_study.best(tmp_path, "recbole") is None
    for rate, score in (("dropout0.2", 0.05), ("dropout0.35", 0.06), ("dropout0.5", 0.04)):
        write(tmp_path, f"recbole-{rate}-2020", score, 0.01)
        write(tmp_path, f"recbole-{rate}-2021", 1 - score, 0.01)  # not of the search
    assert variants_study.best(tmp_path, "recbole") == "dropout0.35"


def test_longtail_must_first_help_tail_items(tmp_path):
    write(tmp_path, "recbole-dropout0.35-2020", 0.06, 0.020)
    write(tmp_path, "longtail-weight0.3-2020", 0.09, 0.025)  # 1.25 times: too little
    write(tmp_path, "longtail-weight0.5-2020", 0.08, 0.027)
    write(tmp_path, "longtail-weight0.7-2020", 0.07, 0.040)
    assert variants_study.best(tmp_path, "longtail") == "weight0.5"
    write(tmp_path, "longtail-weight0.5-2020", 0.08, 0.022)
    write(tmp_path, "longtail-weight0.7-2020", 0.07, 0.024)
    assert variants_study.best(tmp_path, "longtail") == "weight0.3"  # none does; it is closest


def test_seeds_are_repeated_when_the_search_has_ended(tmp_path):
    def names():
        return [name for name, _ in variants_study.jobs(tmp_path)("data") if name.startswith("id-")]

    rates = ("dropout0.2", "dropout0.35", "dropout0.5")
    assert names() == [f"id-{rate}-2020" for rate in rates]
    for rate, score in zip(rates, (0.05, 0.06, 0.04)):
        write(tmp_path, f"id-{rate}-2020", score, 0.01)
    assert names()[3:] == ["id-dropout0.35-2021", "id-dropout0.35-2022"]


@pytest.mark.parametrize("of", [beauty_study, scft_study], ids=lambda module: module.__name__)
def test_every_run_has_a_name_of_its_own(of):
    names, arguments = zip(*of.jobs("data"))
    assert len(set(names)) == len(names) > 10
    assert len({tuple(each) for each in arguments}) == len(names)
    for name, each in zip(names, arguments):
        assert f"--seed={name.rpartition('-')[2]}" in each


def test_recboles_own_training_in_the_study_of_beauty():
    runs = {n: a for n, a in beauty_study.jobs("data") if n.endswith("recbole-2020")}
    assert len(runs) == 6
    for name, arguments in runs.items():
        assert {"--item_embedding=id", "--train_mode=prefix", "--prefix_trim=True"} <= {*arguments}
        assert ("--loss_type=BPR" in arguments) is name.startswith("paper")  # it has no BCE


@pytest.mark.parametrize("line", [a for _, a in beauty_study.jobs("data") if "--seed=2020" in a])
def test_configurations_of_beauty_are_accepted(line):
    from recbole_llmemb.config.recbole_config import make_config

    given = dict(each.removeprefix("--").split("=", 1) for each in line)
    model, dataset, files = (given.pop(key) for key in ("model", "dataset", "config_files"))
    values = {key: json_or_text(value) for key, value in given.items()}
    config = make_config(model, dataset, [files], values | {"use_gpu": False})
    assert config["item_embedding"] == given["item_embedding"].partition("_")[0]


def json_or_text(value):
    try:
        return json.loads(value.lower())
    except ValueError:
        return value


def test_the_study_of_llmsrec(tmp_path):
    class Options:
        only, data_path, have, out = "", "data", tmp_path / "have", tmp_path

    found = list(llmsrec_study.runs(Options))
    assert len({name for name, *_ in found}) == len(found) == 54  # three seeds
    kinds = [kind for _, dataset, kind, seed in found if (dataset, seed) == ("ml-100k", 2020)]
    assert kinds[0] == "cf"  # its checkpoint is the others' CF model: given, or trained here
    (tmp_path / "have").mkdir()
    (tmp_path / "have" / "ml-100k-cf-2021.pth").touch()
    (tmp_path / "ml-100k-cf-2022.json").write_text('{"checkpoint": "saved/cf.pth"}')
    for seed, file in ((2021, "have/ml-100k-cf-2021.pth"), (2022, "saved/cf.pth")):
        line = llmsrec_study.arguments_of("ml-100k", "table", seed, Options)
        assert f"--align_teacher={tmp_path / file}" in line
    for name, dataset, kind, seed in found:  # only the text form is trained on a sample
        line = llmsrec_study.arguments_of(dataset, kind, seed, Options)
        typed = parse(line)
        files = "model", "dataset", "preset", "config_files"
        settings = {key: value for key, value in typed.items() if key not in files}
        refuse_typed(settings, typed["model"])
        assert "" not in settings.values()
        assert ("--item_input=text" in line) is (kind == "text")
        sampled = kind == "text" and dataset == "Amazon_Beauty"
        assert any(each.startswith("--user_sample=") for each in line) is sampled, name


def test_spread_over_seeds():
    assert study.mean_std([0.25]) == "0.2500"
    assert study.mean_std([0.1, 0.2, 0.3]) == "0.2000 ± 0.1000"


def test_a_checkpoint_under_both_measures(tiny_settings, tmp_path, monkeypatch, capsys):
    """What a run's result file has, and the same without the history; done once."""
    settings = tiny_settings("LLMEmbSASRec", epochs=1, item_embedding="id", loss_type="CE")
    settings.pop("gpu_id")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=s.yaml"]
    assert main([*arguments, "--result_json=done/toy-id_only.json"]) == 0
    monkeypatch.setattr(measures_study, "DATASETS", {"toy": ("tiny", [], [])})
    options = [f"--data_path={settings['data_path']}", "--out=out", "--trained=done"]
    monkeypatch.setattr(study, "run", lambda *_: None)  # trains nothing
    measures_study.main([*options, "--only=id_only"])
    run = json.loads((tmp_path / "done/toy-id_only.json").read_text())
    found = json.loads((tmp_path / "out/toy-id_only.json").read_text())
    for group, result in {"all": run["test_result"], **run["groups"]}.items():
        for name in ("ndcg@10", "hit@10"):
            assert found["kept"][group][name] == pytest.approx(result[name], abs=1e-6)
    assert found["removed"]["all"]["users"] == found["kept"]["all"]["users"] > 0
    capsys.readouterr()
    measures_study.main(options)
    assert not capsys.readouterr().out  # nothing is there for the other presets
    measures_study.main([*options, "--table"])
    table = capsys.readouterr().out.splitlines()
    (row,) = [line for line in table if line.startswith("| id_only |")]
    assert f"| {found['kept']['all']['ndcg@10']:.4f} |" in row
    assert f"| {found['removed']['tail_items']['ndcg@10']:.4f} |" in row
    assert sum("not measured" in line for line in table) == len(bundled_names("preset")) - 1


def test_measures_tell_how_many_times_the_opponent_has(tmp_path):
    """Means of three seeds, and Welch's test by its formula; nothing of fewer seeds."""
    values = {"best": (0.30, 0.33, 0.27), "id_best": (0.20, 0.21, 0.22)}
    for preset, scores in values.items():
        for (name, _), score in zip(measures_study.names("toys", preset), scores):
            group = {"ndcg@10": score, "hit@10": score}
            both = {how: {"all": group, "tail_items": group} for how in measures_study.MEASURES}
            (tmp_path / f"{name}.json").write_text(json.dumps({"epochs": 1, **both}))
    (row,) = [line for line in measures_study.table(tmp_path).splitlines() if "(0" in line]
    ours, theirs = (statistics.variance(each) / 3 for each in values.values())
    t = (0.30 - 0.21) / (ours + theirs) ** 0.5
    freedom = (ours + theirs) ** 2 / (ours**2 / 2 + theirs**2 / 2)
    p = 2 * stats.t.sf(t, freedom)
    assert row == "| best |" + f" {0.30 / 0.21:.2f} ({p:.1g}) |" * 6
    (tmp_path / "toys-id_best-2022.json").unlink()
    assert "times" not in measures_study.table(tmp_path)


def test_checkpoints_are_compared_user_by_user(tiny_settings, tmp_path, capsys):
    """As the runs' own files per user say, averaged over seeds."""
    files = {}
    for label, epochs in (("short", 1), ("long", 6)):
        own = tiny_settings("LLMEmbSASRec", epochs=epochs, item_embedding="id", loss_type="CE")
        own.pop("gpu_id")
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({**own, "learning_rate": 0.02}))
        for seed in (1, 2):
            files.setdefault(label, []).append(tmp_path / f"{label}-{seed}.json")
            typed = ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=s.yaml"]
            typed += [f"--seed={seed}", "--save_users=True", f"--result_json={files[label][-1]}"]
            assert main(typed) == 0
    capsys.readouterr()
    runs = [f"{label}={','.join(map(str, each))}" for label, each in files.items()]
    paired.main([f"--data_path={own['data_path']}", *runs])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| kept |")]
    means = {}
    for label, each in files.items():
        users = [read_users(users_file_of(file)).by_user()[1]["ndcg@10"] for file in each]
        means[label] = sum(users) / len(users)
    short, long = means.values()
    p = stats.ttest_rel(long, short).pvalue
    assert 0 < p < 1
    assert rows[0].startswith("| kept | short | 2 | ") and rows[0].endswith(" |  |  |")
    assert rows[1].endswith(f" | {long.mean() / short.mean():.3f} | {p:.1g} |")


def test_the_study_of_the_alignment(tiny_run, tmp_path, monkeypatch):
    """Gradients of each term, as backward passes of their own give them; and the table."""
    _, data, model, _ = tiny_run(align_weight=2.0, align_teacher_config={"epochs": 1})
    batches = list(data.train)[:2]
    weight, norms = model.item_embedding.adapter.up.weight, []
    for batch in batches:
        model.zero_grad()
        model.loss_terms(batch)["alignment"].backward()
        norms.append(weight.grad.norm().item())
    found = alignment_study.gradients(model, batches)
    assert found["alignment"] == pytest.approx(sum(norms) / 2, rel=1e-4)
    assert set(found) == {"recommendation", "alignment"}
    for seed, score in zip(alignment_study.SEEDS, (0.1, 0.3)):
        run = {"epochs": 3, "valid": score, "test": 0.2, "tail": 0.1}
        run["gradients"] = {"recommendation": 0.25, "alignment": 0.001}
        (tmp_path / f"CE-0.1-tau8-{seed}.json").write_text(json.dumps(run))
    table = alignment_study.table(tmp_path, alignment_study.KINDS).splitlines()
    assert table[2:] == [
        "| CE, 0.1, τ 8 | 0.2000 ± 0.1414 | 0.2000 ± 0.0000 | 0.1000 ± 0.0000 | 2.5e-01 | 1.0e-03 |"
    ]


def test_what_the_study_of_the_alignment_keeps(tiny_settings, tmp_path, monkeypatch):
    shared = {"model": "LLMEmbSASRec", **tiny_settings("LLMEmbSASRec", epochs=1)}
    shared |= {"align_teacher_config": {"epochs": 1}}
    monkeypatch.setattr(alignment_study, "SHARED", shared)
    options = ["--dataset=tiny", f"--data_path={shared['data_path']}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(alignment_study, "SEEDS", (2020,))
    kinds = {kind: alignment_study.KINDS[kind] for kind in ("CE-0.1", "BCE-0")}
    monkeypatch.setattr(alignment_study, "KINDS", kinds)
    alignment_study.main([*options, "--only=CE-0.1"])
    assert [file.name for file in (tmp_path / "out/tiny").iterdir()] == ["CE-0.1-2020.json"]
    kept = json.loads((tmp_path / "out/tiny/CE-0.1-2020.json").read_text())
    assert kept["epochs"] == 1 and kept["gradients"]["alignment"] > 0
    assert 0 <= kept["test"] <= 1 and 0 <= kept["valid"] <= 1


def test_the_study_of_new_items(tiny_settings, tmp_path, monkeypatch, capsys):
    """Neighbors of held-out items by text and by the model, one by one; done once; the table."""
    trained = {"adapter": "whitening", "llm_freeze": False, "llm_whiten": 0.3, "llm_pca_dim": 8}
    trained |= {"align_weight": 0.0, "loss_type": "CE", "holdout_items": 0.2, "epochs": 1}
    settings = tiny_settings("LLMEmbSASRec", **trained)
    settings.pop("gpu_id")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
    assert len({name for name, _ in cold_study.jobs("data")}) == 26
    monkeypatch.setattr(cold_study, "WHOLE", {})
    monkeypatch.setattr(cold_study, "DATASETS", {"toy": "tiny"})
    monkeypatch.setattr(cold_study, "RIDGES", ("1",))
    monkeypatch.setattr(cold_study, "SAMPLES", (2020,))
    arguments = ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=s.yaml"]
    arguments += ["--holdout_targets=all", "--metrics=['NDCG']", "--topk=[10]"]
    assert main([*arguments, "--valid_metric=NDCG@10", "--result_json=done/toy-1-2020.json"]) == 0
    monkeypatch.setattr(study, "run", lambda *_: None)  # trains nothing
    options = [f"--data_path={settings['data_path']}", "--out=out", "--trained=done"]
    cold_study.main(options)
    found = json.loads((tmp_path / "out/toy-1-2020.json").read_text())
    run = json.loads((tmp_path / "done/toy-1-2020.json").read_text())
    ranked = run["cold_items"]["all_items"]["model"]
    assert found["placed"]["cold"] == pytest.approx(ranked["ndcg@10"], abs=1e-6)
    assert found["placed"]["auc"] == pytest.approx(ranked["auc"], abs=1e-6)
    assert found["begun"]["auc"] != found["placed"]["auc"]

    restored = restore(tmp_path / "done" / run["checkpoint"], loaders=True)
    train, model = restored.data.train._dataset, restored.model
    rows = EmbeddingTable.load(settings["llm_table"])
    texts = dict(zip(rows.tokens, rows.vectors))
    names = [str(token) for token in train.field2id_token["item_id"][1:]]
    with torch.no_grad():
        learned = dict(zip(names, model.items().vectors[1:]))
        unseen = model.unseen(restored.config, train, train.held_out.tokens).vectors
    shares = []
    for token, vector in zip(train.held_out.tokens, unseen):
        near = [
            set(sorted(names, key=lambda n: -float(cosine(of[n], mine)))[: cold_study.NEIGHBORS])
            for of, mine in ((texts, texts[token]), (learned, vector))
        ]
        shares.append(len(near[0] & near[1]) / cold_study.NEIGHBORS)
    assert found["placed"]["recall"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert 0 < found["placed"]["recall"] < 1
    capsys.readouterr()
    cold_study.main([*options, "--table"])
    row = f"| tiny | 1 | as the model does | {found['placed']['recall']:.4f} |"
    assert row in capsys.readouterr().out


def test_presets_are_timed_as_they_are():
    for name in time_to_score.PRESETS:
        own = read_settings(preset_file(name))
        assert time_to_score.settings_of(name, {}) == {"loss_type": "CE", **own}
    assert time_to_score.settings_of("best", {"hidden_size": 8})["hidden_size"] == 8
    ids = time_to_score.settings_of("id", {})
    assert ids["item_embedding"] == "id" and ids["hidden_size"] == 64
    assert ids["train_batch_size"] == time_to_score.OURS["train_batch_size"]


@pytest.mark.parametrize("clock", ["wall time", "processor seconds"])
def test_a_kept_curve_counts_for_its_own_clock(monkeypatch, tmp_path, clock):
    class Options:
        fresh, recbole_epochs, recbole_minutes = False, 1, 1.0

    points = [{"epoch": 1, "seconds": 5.0, "score": 0.25}]
    kept = {"machine": timing.machine(), "clock": clock, "load": "", "points": points}
    (tmp_path / "curve.json").write_text(json.dumps(kept))
    anew = [{"epoch": 1, "seconds": 7.0, "score": 0.5}]
    monkeypatch.setattr(time_to_score, "CURVE", tmp_path / "curve.json")
    monkeypatch.setattr(time_to_score, "curve", lambda *_: anew)
    monkeypatch.setattr(time_to_score.subjects, "stock", lambda *_, **__: None)
    found = time_to_score.recbole_curve(Options)
    assert found["points"] == (points if clock == timing.clock() else anew)
    assert found["clock"] == timing.clock() == "wall time"


def test_a_benchmark_silences_its_process_and_an_import_none(tmp_path):
    code = (
        "import logging; from benchmarks import subjects, timing; loud = logging.root.level;"
        "timing.start(timing.options('What is timed.', 1), []); print(loud, logging.root.level)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=child_env(), cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["30 40"], done.stderr
