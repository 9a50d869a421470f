"""The tiny repositories that make vectors: config.json as published ones spell it.

Each entry of REPOSITORIES is (config, dtype of the file, shards). Every option of a family is on in one
of its repositories. SENTENCES has what sentence-transformers puts beside some of them.
"""

import torch

VOCAB = 320
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def config(model_type, architecture, layers=2, **keys):
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    } | keys


def bert(architecture, **keys):
    return config("bert", architecture, **({"layer_norm_eps": 1e-12, "hidden_act": "gelu"} | keys))


def roberta(model_type, architecture, **keys):
    defaults = {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1, "type_vocab_size": 1}
    return config(model_type, architecture, **(defaults | keys))


def mpnet(architecture, **keys):
    # Texts of more than 128 tokens, so that the farthest kind of distance is there.
    defaults = {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1}
    return config("mpnet", architecture, max_position_embeddings=162, **(defaults | keys))


REPOSITORIES = {
    "tiny-bert": (bert("BertModel", type_vocab_size=2, position_embedding_type="absolute"), F32, 1),
    # With the head for masked tokens, and the prefix that goes with it.
    "tiny-bert-sharded": (
        bert("BertForMaskedLM", layers=3, type_vocab_size=1, hidden_act="gelu_new"),
        BF16,
        2,
    ),
    "tiny-roberta": (roberta("roberta", "RobertaModel"), BF16, 1),
    "tiny-roberta-sharded": (
        roberta("roberta", "RobertaForMaskedLM", layers=3, type_vocab_size=2, pad_token_id=3),
        F16,
        2,
    ),
    "tiny-xlm-roberta": (roberta("xlm-roberta", "XLMRobertaModel"), BF16, 1),
    "tiny-xlm-roberta-sharded": (
        roberta("xlm-roberta", "XLMRobertaForMaskedLM", layers=3, layer_norm_eps=1e-12),
        BF16,
        2,
    ),
    "tiny-mpnet": (mpnet("MPNetModel", relative_attention_num_buckets=32), BF16, 1),
    "tiny-mpnet-sharded": (mpnet("MPNetForMaskedLM", layers=3, layer_norm_eps=1e-12), BF16, 2),
    "tiny-modernbert": (
        config(
            "modernbert",
            "ModernBertModel",
            layers=4,
            hidden_activation="gelu",
            norm_eps=1e-5,
            local_attention=8,
            global_attn_every_n_layers=3,
            global_rope_theta=160000.0,
            local_rope_theta=10000.0,
            attention_bias=False,
            mlp_bias=False,
            norm_bias=False,
        ),
        BF16,
        1,
    ),
    "tiny-modernbert-sharded": (
        config(
            "modernbert",
            "ModernBertForMaskedLM",
            layers=3,
            hidden_activation="silu",
            norm_eps=1e-6,
            local_attention=13,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 80000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
            attention_bias=True,
            mlp_bias=True,
            norm_bias=True,
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-nomic-bert": (
        config("nomic_bert", "NomicBertModel", layer_norm_eps=1e-12, type_vocab_size=2),
        BF16,
        1,
    ),
    "tiny-nomic-bert-sharded": (
        config(
            "nomic_bert",
            "NomicBertModel",
            layers=3,
            layer_norm_eps=1e-5,
            type_vocab_size=1,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        BF16,
        2,
    ),
    # A decoder that looks both ways.
    "tiny-embedding-gemma": (
        config(
            "gemma3_text",
            "Gemma3TextModel",
            layers=3,
            num_key_value_heads=2,
            head_dim=16,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=16,
            sliding_window=9,
            sliding_window_pattern=3,
            rope_theta=1000000.0,
            rope_local_base_freq=10000.0,
            use_bidirectional_attention=True,
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
    # A decoder as it is, some of whose layers have a window.
    "tiny-qwen3-embedding": (
        config(
            "qwen3",
            "Qwen3ForCausalLM",
            num_key_value_heads=2,
            head_dim=16,
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            use_sliding_window=True,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
}

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}


def modules(*types):
    """modules.json: the model, then these, each in a folder of its own."""
    rest = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(types, 1)
    ]
    return [TRANSFORMER, *rest]


def pooling(mode, **keys):
    """1_Pooling/config.json as most published repositories have it."""
    modes = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    return {"word_embedding_dimension": 32} | {f"pooling_mode_{m}": m == mode for m in modes} | keys


def dense(in_features, out_features, bias, activation):
    return {
        "in_features": in_features,
        "out_features": out_features,
        "bias": bias,
        "activation_function": activation,
    }


# name -> (file -> content; a Dense also gets weights), the names of prompts to try ("": the default).
SENTENCES = {
    "tiny-bert": (
        {
            "modules.json": modules("Pooling", "Dense", "Normalize"),
            "1_Pooling/config.json": pooling("mean_tokens", include_prompt=False),
            "2_Dense/config.json": dense(32, 24, True, "torch.nn.modules.activation.Tanh"),
            "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "__version__": {"sentence_transformers": "6.2.0"},
                "prompts": {"passage": "the passage: ", "query": "what "},
                "default_prompt_name": "passage",
            },
        },
        ("", "query"),
    ),
    "tiny-embedding-gemma": (
        {
            "modules.json": modules("Pooling", "Dense", "Dense", "Normalize"),
            "1_Pooling/config.json": pooling("mean_tokens", include_prompt=True),
            "2_Dense/config.json": dense(32, 64, False, "torch.nn.modules.linear.Identity"),
            "3_Dense/config.json": dense(64, 32, False, "torch.nn.modules.linear.Identity"),
            "sentence_bert_config.json": {"max_seq_length": 48, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "prompts": {"query": "task: search result | query: ", "document": "title: none | text: "},
                "default_prompt_name": None,
            },
        },
        ("", "query", "document"),
    ),
    "tiny-qwen3-embedding": (
        {
            "modules.json": modules("Pooling", "Normalize"),
            "1_Pooling/config.json": pooling("lasttoken", include_prompt=True),
            "config_sentence_transformers.json": {
                "prompts": {"query": "Instruct: answer\nQuery:", "document": ""},
                "default_prompt_name": None,
            },
        },
        ("", "query", "document"),
    ),
}
