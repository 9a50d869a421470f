"""As architectures.py: those whose layers are not all attention."""

from architectures import BF16, config

REPOSITORIES = {
    "tiny-lfm2": (
        config(
            "lfm2",
            "Lfm2ForCausalLM",
            layers=3,
            norm_eps=1e-5,
            conv_L_cache=3,
            conv_bias=False,
            full_attn_idxs=[1],
            block_ff_dim=90,
            block_auto_adjust_ff_dim=True,
            block_ffn_dim_multiplier=1.0,
            block_multiple_of=16,
            rope_theta=1000000.0,
            tie_embedding=True,
        ),
        BF16,
        1,
    ),
    "tiny-lfm2-sharded": (
        config(
            "lfm2",
            "Lfm2ForCausalLM",
            layers=4,
            norm_eps=1e-6,
            conv_L_cache=4,
            conv_bias=True,
            layer_types=["conv", "full_attention", "conv", "conv"],
            block_auto_adjust_ff_dim=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        BF16,
        2,
    ),
}
