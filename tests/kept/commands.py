"""The commands that made what lies in ``work/``; given again, they find it, or continue it."""

RUN = ["run", "--dataset=kept", "--data_path=data", "--config_files=settings.yaml"]
ENCODE = ["encode", "--dataset=kept", "--data_path=data", "--encoder=encoder", "--device=cpu"]
SCFT = ["scft", "--dataset=kept", "--data_path=data", "--encoder=encoder", "--device=cpu",
        "--precision=float32", "--lora_rank=2", "--lora_targets=query,value", "--batch_size=8",
        "--holdout=0.2", "--save_steps=4", "--steps=8"]  # fmt: skip
TABLE = ["--llm_table=tables/items", "--align_weight=0"]
SMALL = {"n_layers": 1, "n_heads": 1, "inner_size": 16}
LLMSREC = [*RUN, "--model=LLMSRec", "--llm_table=tables/items", "--llm_model=llm",
           f"--align_teacher_config={SMALL | {'loss_type': 'CE'}}"]  # fmt: skip

COMMANDS = {
    # Tables: finished, in the cache of runs, and half done
    "table": [*ENCODE, "--out=tables/items"],
    "gru4rec": [*RUN, "--model=LLMEmbGRU4Rec", "--llm_encoder=encoder", "--align_weight=0",
                       "--result_json=results/gru4rec.json"],
    "interrupted_encoding": [*ENCODE, "--shard_size=9", "--out=tables/interrupted"],
    # Adapters
    "adapter": [*SCFT, "--out=adapters/finished"],
    "adapted_table": [*ENCODE, "--adapter=adapters/finished", "--out=tables/adapted"],
    "interrupted_scft": [*SCFT, "--seed=1", "--out=adapters/interrupted"],
    # Runs
    "sasrec": [*RUN, *TABLE, "--model=LLMEmbSASRec", "--save_users=True",
               "--result_json=results/sasrec.json"],
    "longtail": [*RUN, *TABLE, "--model=LLMEmbBERT4Rec", "--preset=longtail",
                 "--result_json=results/longtail.json", "--save_users=True"],
    "reduced": [*RUN, *TABLE, "--model=LLMEmbSASRec", "--llm_pca_dim=6",
                "--result_json=results/reduced.json"],
    "aligned": [*RUN, "--llm_table=tables/items", "--model=LLMEmbSASRec", "--align_weight=0.1",
                f"--align_teacher_config={SMALL}", "--result_json=results/aligned.json"],
    "stock": [*RUN, "--model=SASRec", "--train_neg_sample_args=None",
              "--result_json=results/stock.json"],
    "llmsrec": [*LLMSREC, "--result_json=results/llmsrec.json"],
    "interrupted_run": [*RUN, *TABLE, "--model=LLMEmbSASRec", "--epochs=6",
                        "--hidden_dropout_prob=0.3", "--result_json=results/interrupted_run.json"],
    "interrupted_llmsrec": [*LLMSREC, "--epochs=4",
                            "--result_json=results/interrupted_llmsrec.json"],
    # A search
    "interrupted_search": ["tune", "--model=LLMEmbSASRec", *RUN[1:], *TABLE, "--epochs=12",
                           "--space=space.yaml", "--name=search", "--num_samples=2",
                           "--max_concurrent=1", "--scheduler=none"],
}  # fmt: skip
# Asked for with the finished checkpoints; what came is in ``found/``.
LISTS = {
    "sasrec": ["--users=u1,u3"],
    "gru4rec": ["--history=i1 i2", "--new_items=new.item", "--topk=40"],
    "longtail": ["--users=u1,u3", "--split=test", "--exclude_seen"],
    "stock": ["--users=u1,u3"],
    "llmsrec": ["--history=i1 i2 i3"],
}


def recommend(name, checkpoint, folder, *options):
    given = ["--device=cpu", f"--checkpoint={checkpoint}", f"--out={folder}/{name}.jsonl"]
    return ["recommend", *given, *LISTS[name], *options]


SETTINGS = """\
load_col: {inter: [user_id, item_id, timestamp, rating]}
MAX_ITEM_LIST_LENGTH: 10
hidden_size: 8
embedding_size: 8
inner_size: 16
n_layers: 1
n_heads: 1
head_hidden_size: 24
representation_size: 12
history_items: 4
epochs: 2
train_batch_size: 8
learning_rate: 0.01
topk: [5, 10]
valid_metric: NDCG@10
metric_decimal_place: 8
short_user_threshold: 5
show_progress: False
use_gpu: False
"""
