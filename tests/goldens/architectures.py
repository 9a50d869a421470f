"""The tiny repositories of the architectures: config.json as published ones spell it.

Each entry is (config, dtype of the file, shards). Sizes are small, and every option of a family is
on in one of its repositories. Windows are shorter than the longest prompt.
"""

import torch

VOCAB = 128
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def config(model_type, architecture, layers=2, **keys):
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    } | keys


def gpt_neox(**keys):
    neox = config("gpt_neox", "GPTNeoXForCausalLM", hidden_act="gelu", layer_norm_eps=1e-5, **keys)
    del neox["num_key_value_heads"]
    return neox


def llama(**keys):
    return config("llama", "LlamaForCausalLM", rms_norm_eps=1e-5, hidden_act="silu", **keys)


def yarn(**keys):
    return {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    } | keys


REPOSITORIES = {
    "tiny-llama-yarn": (
        llama(max_position_embeddings=128, rope_theta=10000.0, rope_scaling=yarn()),
        BF16,
        1,
    ),
    "tiny-llama-dynamic": (
        llama(max_position_embeddings=64, rope_scaling={"type": "dynamic", "factor": 2.0}),
        BF16,
        2,
    ),
    "tiny-mistral": (
        config(
            "mistral",
            "MistralForCausalLM",
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            sliding_window=8,
        ),
        BF16,
        1,
    ),
    "tiny-mistral-sharded": (
        config(
            "mistral",
            "MistralForCausalLM",
            layers=3,
            head_dim=16,
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=None,
        ),
        BF16,
        2,
    ),
    "tiny-ministral3": (
        config(
            "ministral3",
            "Ministral3ForCausalLM",
            head_dim=16,
            rms_norm_eps=1e-5,
            rope_parameters=yarn(
                rope_theta=1000000.0,
                original_max_position_embeddings=8,
                mscale=1.0,
                mscale_all_dim=1.0,
                llama_4_scaling_beta=0.5,
            ),
        ),
        BF16,
        1,
    ),
    "tiny-ministral3-sharded": (
        config(
            "ministral3",
            "Ministral3ForCausalLM",
            layers=3,
            head_dim=8,
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            sliding_window=12,
            rope_parameters=yarn(
                rope_theta=10000.0,
                original_max_position_embeddings=16,
                llama_4_scaling_beta=0.1,
            ),
        ),
        BF16,
        2,
    ),
    "tiny-phi3": (
        config(
            "phi3",
            "Phi3ForCausalLM",
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            sliding_window=9,
            partial_rotary_factor=0.5,
        ),
        BF16,
        1,
    ),
    # Every sequence is longer than the original context, so that the long factors count throughout.
    "tiny-phi3-longrope": (
        config(
            "phi3",
            "Phi3ForCausalLM",
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            original_max_position_embeddings=24,
            max_position_embeddings=192,
            rope_scaling={
                "type": "longrope",
                "short_factor": [1.0, 1.05, 1.1, 1.2],
                "long_factor": [1.0, 1.5, 3.0, 6.0],
            },
        ),
        BF16,
        2,
    ),
    "tiny-gemma2": (
        config(
            "gemma2",
            "Gemma2ForCausalLM",
            head_dim=16,
            hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=24,
            sliding_window=8,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=0.3,
            rope_theta=10000.0,
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
    "tiny-gemma2-sharded": (
        config(
            "gemma2",
            "Gemma2ForCausalLM",
            layers=3,
            head_dim=8,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=8,
            sliding_window=16,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
        F32,
        2,
    ),
    "tiny-gemma3": (
        config(
            "gemma3_text",
            "Gemma3ForCausalLM",
            layers=3,
            head_dim=16,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=16,
            sliding_window=8,
            sliding_window_pattern=3,
            rope_theta=1000000.0,
            rope_local_base_freq=10000.0,
            rope_scaling={"factor": 8.0, "rope_type": "linear"},
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
    "tiny-gemma3-sharded": (
        config(
            "gemma3_text",
            "Gemma3ForCausalLM",
            head_dim=8,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=8,
            sliding_window=6,
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
            final_logit_softcapping=0.5,
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-smollm3": (
        config(
            "smollm3",
            "SmolLM3ForCausalLM",
            layers=4,
            intermediate_size=32,
            no_rope_layer_interval=4,
            rope_theta=2000000.0,
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
    "tiny-smollm3-sharded": (
        config(
            "smollm3",
            "SmolLM3ForCausalLM",
            layers=3,
            no_rope_layers=[1, 0, 1],
            use_sliding_window=True,
            sliding_window=8,
            attention_bias=True,
            mlp_bias=True,
        ),
        BF16,
        2,
    ),
    "tiny-granite": (
        config(
            "granite",
            "GraniteForCausalLM",
            rms_norm_eps=1e-5,
            embedding_multiplier=12.0,
            residual_multiplier=0.22,
            attention_multiplier=0.25,
            logits_scaling=8.0,
            rope_theta=10000000.0,
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
    "tiny-granite-sharded": (
        config(
            "granite",
            "GraniteForCausalLM",
            layers=3,
            embedding_multiplier=6.0,
            residual_multiplier=0.5,
            attention_multiplier=0.125,
            logits_scaling=2.0,
            attention_bias=True,
            mlp_bias=True,
        ),
        BF16,
        2,
    ),
    "tiny-olmo2": (config("olmo2", "Olmo2ForCausalLM", rms_norm_eps=1e-6, rope_theta=500000.0), BF16, 1),
    "tiny-olmo2-sharded": (
        config(
            "olmo2",
            "Olmo2ForCausalLM",
            layers=3,
            num_key_value_heads=4,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-olmo3": (
        config(
            "olmo3",
            "Olmo3ForCausalLM",
            layers=4,
            intermediate_size=32,
            rms_norm_eps=1e-6,
            rope_theta=500000.0,
            sliding_window=8,
            rope_scaling=yarn(attention_factor=1.2, original_max_position_embeddings=64),
        ),
        BF16,
        1,
    ),
    "tiny-olmo3-sharded": (
        config(
            "olmo3",
            "Olmo3ForCausalLM",
            attention_bias=True,
            sliding_window=6,
            layer_types=["full_attention", "sliding_attention"],
            rope_theta=10000.0,
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-glm4": (
        config(
            "glm4",
            "Glm4ForCausalLM",
            head_dim=16,
            rms_norm_eps=1e-5,
            attention_bias=True,
            partial_rotary_factor=0.5,
            rope_theta=10000.0,
        ),
        BF16,
        1,
    ),
    "tiny-glm4-sharded": (
        config(
            "glm4",
            "Glm4ForCausalLM",
            layers=3,
            head_dim=8,
            attention_bias=False,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
            },
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-starcoder2": (
        config(
            "starcoder2",
            "Starcoder2ForCausalLM",
            hidden_act="gelu_pytorch_tanh",
            norm_epsilon=1e-5,
            use_bias=True,
            sliding_window=8,
            rope_theta=100000.0,
            tie_word_embeddings=True,
        ),
        BF16,
        1,
    ),
    "tiny-starcoder2-sharded": (
        config(
            "starcoder2",
            "Starcoder2ForCausalLM",
            layers=3,
            hidden_act="gelu_pytorch_tanh",
            norm_epsilon=1e-5,
            use_bias=False,
        ),
        BF16,
        2,
    ),
    "tiny-gpt-neox": (
        gpt_neox(rotary_pct=0.5, rotary_emb_base=10000, use_parallel_residual=True),
        F16,
        1,
    ),
    "tiny-gpt-neox-sharded": (
        gpt_neox(layers=3, rotary_pct=1.0, use_parallel_residual=False, attention_bias=False),
        BF16,
        2,
    ),
    "tiny-gpt2": (
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "n_ctx": 64,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        F32,
        1,
    ),
    "tiny-gpt2-sharded": (
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 2,
            "n_inner": 48,
            "n_positions": 128,
            "activation_function": "gelu",
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        BF16,
        2,
    ),
    "tiny-exaone4": (
        config(
            "exaone4",
            "Exaone4ForCausalLM",
            layers=4,
            intermediate_size=32,
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=8,
            sliding_window_pattern=4,
        ),
        BF16,
        1,
    ),
    "tiny-exaone4-sharded": (
        config(
            "exaone4",
            "Exaone4ForCausalLM",
            layers=3,
            rms_norm_eps=1e-5,
            sliding_window=None,
            layer_types=["full_attention"] * 3,
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-cohere2": (
        config(
            "cohere2",
            "Cohere2ForCausalLM",
            layers=4,
            intermediate_size=32,
            layer_norm_eps=1e-5,
            logit_scale=0.25,
            sliding_window=8,
            sliding_window_pattern=4,
            rope_theta=50000,
            tie_word_embeddings=True,
        ),
        F16,
        1,
    ),
    "tiny-cohere2-sharded": (
        config(
            "cohere2",
            "Cohere2ForCausalLM",
            intermediate_size=40,
            attention_bias=True,
            sliding_window=6,
            layer_types=["full_attention", "sliding_attention"],
            tie_word_embeddings=True,
        ),
        BF16,
        2,
    ),
    "tiny-qwen2-sharded": (
        config(
            "qwen2",
            "Qwen2ForCausalLM",
            layers=3,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
            rope_theta=1000000.0,
        ),
        BF16,
        2,
    ),
    "tiny-qwen3-sharded": (
        config(
            "qwen3",
            "Qwen3ForCausalLM",
            layers=3,
            head_dim=8,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        BF16,
        2,
    ),
}
