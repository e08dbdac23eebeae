"""The settings of the recorded runs: one line each."""

# In a file that every run is given; keys that a model does not have are passed over.
SHARED = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]},
    "MAX_ITEM_LIST_LENGTH": 10,
    "hidden_size": 8,
    "embedding_size": 8,
    "inner_size": 16,
    "n_layers": 1,
    "num_layers": 1,
    "n_heads": 2,
    "epochs": 2,
    "train_batch_size": 16,
    "eval_batch_size": 16,
    "learning_rate": 0.01,
    "short_user_threshold": 5,
    "metrics": ["Hit", "NDCG", "MRR"],
    "topk": [5, 10],
    "metric_decimal_place": 16,
    "show_progress": False,
    "use_gpu": False,
    "gpu_id": "",
}
MAIN = ("SASRec", "GRU4Rec", "BERT4Rec")
# With what they need beside: FEARec wants two layers, others read features of items.
OTHERS = {
    **dict.fromkeys(("NARM", "STAMP", "NextItNet", "Caser", "HGN", "LightSANs", "CORE", "SINE",
                     "GCSAN", "SRGNN", "SHAN", "NPE", "HRM", "TransRec", "FOSSIL"), {}),
    "FEARec": {"n_layers": 2},
    **dict.fromkeys(("S3Rec", "GRU4RecF", "SASRecF", "FDSA"), {"llm_missing": "mean"}),
    **dict.fromkeys(("SASRecCPR", "GRU4RecCPR"), {"reranker_CAN_NUM": 10}),
}  # fmt: skip
OURS = {"llm_table": "table", "align_weight": 0.0}
LLMSREC = {
    "llm_model": "llm",
    "llm_table": "table",
    "head_hidden_size": 24,
    "representation_size": 12,
    "history_items": 4,
    "train_batch_size": 8,
    "llm_batch_size": 7,
    "align_teacher_config": {"loss_type": "CE", "epochs": 2},
}
EVALUATION = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


def ours(name="SASRec", **changes):
    return f"LLMEmb{name}", OURS | changes


def sasrec(**changes):
    return ours(**changes)


def llmsrec(**changes):
    return "LLMSRec", LLMSREC | changes


def measured(**changes):
    return sasrec(eval_args=EVALUATION | changes)


RUNS = {
    # Items
    **{f"{name}-table": ours(name) for name in MAIN},
    **{f"{name}-id": ours(name, item_embedding="id") for name in MAIN},
    **{f"{name}-longtail": ours(name, preset="longtail") for name in MAIN},
    "SASRec-both": sasrec(preset="both"),
    "SASRec-residual_cosine": sasrec(preset="residual_cosine", offset_decay=0.1),
    "SASRec-whitenrec": sasrec(preset="whitenrec", adapter_dropout=0.1),
    "SASRec-whitened": sasrec(adapter="whitening", llm_whiten=0.3),
    "SASRec-llm2x": sasrec(preset="llm2x", llm_init_std=0.1, item_learning_rate=0.001),
    "GRU4Rec-cosine": ours("GRU4Rec", item_similarity="cosine", learn_temperature=True),
    "SASRec-pca": sasrec(llm_pca_dim=6),
    "SASRec-text": sasrec(llm_table=None, llm_encoder="encoder"),
    # Losses and teachers
    "SASRec-ce": sasrec(loss_type="CE"),
    "GRU4Rec-bpr": ours("GRU4Rec", loss_type="BPR", negative_excludes="target"),
    "SASRec-teacher": sasrec(align_weight=0.1),
    "BERT4Rec-teacher": ours("BERT4Rec", align_weight=0.1, align_items="positions"),
    "SASRec-stock_teacher": sasrec(align_weight=0.1, align_teacher="NARM", loss_type="CE"),
    "SASRec-popular_negatives": sasrec(
        train_neg_sample_args={"distribution": "popularity", "sample_num": 2}
    ),
    # Loaders
    "SASRec-prefix": sasrec(train_mode="prefix"),
    "SASRec-prefix_trim": sasrec(train_mode="prefix", prefix_trim=True, loss_type="CE"),
    "BERT4Rec-prefix": ours("BERT4Rec", train_mode="prefix", loss_type="CE"),
    "SASRec-shuffled": sasrec(shuffle_train=True, sequence_stride=3),
    # Evaluation
    "SASRec-uni": measured(mode="uni20"),
    "SASRec-pop": measured(mode="pop20"),
    "SASRec-exclude_history": sasrec(exclude_history=True, save_users=True),
    "SASRec-keep_target": sasrec(exclude_history="keep_target", tail_item_threshold=0.8),
    "SASRec-shares": measured(split={"RS": [8, 1, 1]}),
    "SASRec-no_test": measured(split={"LS": "valid_only"}),
    "SASRec-presplit": sasrec(dataset="parts", benchmark_filename=["train", "valid", "test"]),
    "SASRec-holdout": sasrec(holdout_items=0.2, holdout_targets="all"),
    "GRU4Rec-holdout": ours("GRU4Rec", holdout_items=0.2, item_embedding="both"),
    # Other backbones, and RecBole's own models
    **{f"{name}-table": ours(name, **needs) for name, needs in OTHERS.items()},
    "SASRec-stock": ("SASRec", {"train_neg_sample_args": None}),
    "GRU4Rec-stock": ("GRU4Rec", {"train_neg_sample_args": None}),
    # LLM-SRec
    "LLMSRec-table": llmsrec(),
    "LLMSRec-text": llmsrec(item_input="text", item_title_field="title"),
    "LLMSRec-contrastive": llmsrec(
        distill_loss="contrastive",
        in_batch_negatives=True,
        train_targets="last",
        llm_model="encoder",
    ),
}
