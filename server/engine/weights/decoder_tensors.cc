#include "server/engine/weights/decoder_tensors.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace modeld {
namespace {

// Adds the tensors of one layer, or of what belongs to none.
class Adder {
 public:
  Adder(const ArchitectureConfig& config, int64_t layer, std::vector<TensorShape>& tensors)
      : config_(config), layer_(layer), tensors_(tensors) {
    if (layer >= 0) prefix_ = absl::StrCat("model.layers.", layer, ".");
  }

  void Add(std::string_view role, std::vector<int64_t> shape) {
    tensors_.push_back({"", std::move(shape), layer_, prefix_ + std::string(role)});
  }

  // Each byte stands for `numbers` numbers.
  void AddBytes(const std::string& role, std::vector<int64_t> shape, int64_t numbers) {
    tensors_.push_back({"", std::move(shape), layer_, prefix_ + role, numbers, true});
  }

  void Linear(const std::string& role, int64_t out, int64_t in, bool bias) {
    if (config_.transposed_linear && layer_ >= 0) std::swap(out, in);
    Add(role + ".weight", {out, in});
    if (bias) Add(role + ".bias", {config_.transposed_linear && layer_ >= 0 ? in : out});
  }

  void Norm(const std::string& role, int64_t size) {
    Add(role + ".weight", {size});
    if (config_.norm == NormKind::kLayer) Add(role + ".bias", {size});
  }

  // A feed-forward network whose matrices are below `prefix`.
  void Mlp(const std::string& prefix, int64_t size, bool fused) {
    const int64_t hidden = config_.hidden_size;
    const bool bias = config_.mlp_bias;
    if (fused) {
      Linear(prefix + "gate_up_proj", 2 * size, hidden, bias);
    } else {
      if (config_.gated_mlp) Linear(prefix + "gate_proj", size, hidden, bias);
      Linear(prefix + "up_proj", size, hidden, bias);
    }
    Linear(prefix + "down_proj", hidden, size, bias);
  }

 private:
  const ArchitectureConfig& config_;
  const int64_t layer_;
  std::vector<TensorShape>& tensors_;
  std::string prefix_;
};

void AddAttention(const ArchitectureConfig& config, const LayerConfig& layer, Adder& to) {
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.num_heads * layer.head_dim;
  const int64_t key = layer.num_kv_heads * layer.head_dim;
  const bool has_keys = layer.kv_layer < 0;
  if (config.qkv_layout == QkvLayout::kSeparate) {
    to.Linear("self_attn.q_proj", config.attention_gate ? 2 * query : query, hidden,
              config.qkv_bias);
    if (has_keys) to.Linear("self_attn.k_proj", key, hidden, config.qkv_bias);
    if (has_keys && !layer.keys_are_values) {
      to.Linear("self_attn.v_proj", key, hidden, config.qkv_bias);
    }
  } else {
    to.Linear("self_attn.qkv_proj", query + 2 * key, hidden, config.qkv_bias);
  }
  if (config.qk_norm != QkNorm::kNone) {
    const bool whole = config.qk_norm == QkNorm::kWhole;
    to.Add("self_attn.q_norm.weight", {whole ? query : layer.head_dim});
    if (has_keys) to.Add("self_attn.k_norm.weight", {whole ? key : layer.head_dim});
  }
  if (config.attention_sinks) to.Add("self_attn.sinks", {config.num_heads});
  to.Linear("self_attn.o_proj", hidden, query, config.attention_output_bias);
}

void AddLatentAttention(const ArchitectureConfig& config, Adder& to) {
  const LatentConfig& latent = config.latent;
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.num_heads * (latent.nope_dim + latent.rope_dim);
  if (latent.query_rank > 0) {
    to.Linear("self_attn.q_a_proj", latent.query_rank, hidden, config.qkv_bias);
    to.Add("self_attn.q_a_layernorm.weight", {latent.query_rank});
    to.Linear("self_attn.q_b_proj", query, latent.query_rank, false);
  } else {
    to.Linear("self_attn.q_proj", query, hidden, false);
  }
  to.Linear("self_attn.kv_a_proj_with_mqa", latent.kv_rank + latent.rope_dim, hidden,
            config.qkv_bias);
  to.Add("self_attn.kv_a_layernorm.weight", {latent.kv_rank});
  to.Linear("self_attn.kv_b_proj", config.num_heads * (latent.nope_dim + latent.value_dim),
            latent.kv_rank, false);
  to.Linear("self_attn.o_proj", hidden, config.num_heads * latent.value_dim,
            config.attention_output_bias);
}

// One filter a channel.
void AddConv(const RecurrentConfig& recurrent, const std::string& role, Adder& to) {
  to.Add(role + ".weight", {recurrent.conv_channels, 1, recurrent.conv_tokens});
  if (recurrent.conv_bias) to.Add(role + ".bias", {recurrent.conv_channels});
}

void AddShortConv(const ArchitectureConfig& config, Adder& to) {
  const RecurrentConfig& recurrent = config.recurrent;
  const int64_t hidden = config.hidden_size;
  to.Linear("conv.in_proj", 3 * hidden, hidden, recurrent.projection_bias);
  AddConv(recurrent, "conv.conv", to);
  to.Linear("conv.out_proj", hidden, hidden, recurrent.projection_bias);
}

void AddDeltaNet(const ArchitectureConfig& config, Adder& to) {
  const RecurrentConfig& recurrent = config.recurrent;
  const int64_t hidden = config.hidden_size;
  const int64_t values = recurrent.heads * recurrent.value_dim;
  if (recurrent.by_key_head) {
    to.Linear("linear_attn.in_proj_qkvz", recurrent.conv_channels + values, hidden, false);
    to.Linear("linear_attn.in_proj_ba", 2 * recurrent.heads, hidden, false);
  } else {
    to.Linear("linear_attn.in_proj_qkv", recurrent.conv_channels, hidden, false);
    to.Linear("linear_attn.in_proj_z", values, hidden, false);
    to.Linear("linear_attn.in_proj_b", recurrent.heads, hidden, false);
    to.Linear("linear_attn.in_proj_a", recurrent.heads, hidden, false);
  }
  AddConv(recurrent, "linear_attn.conv1d", to);
  to.Add("linear_attn.dt_bias", {recurrent.heads});
  to.Add("linear_attn.A_log", {recurrent.heads});
  to.Add("linear_attn.norm.weight", {recurrent.value_dim});
  to.Linear("linear_attn.out_proj", hidden, values, false);
}

void AddMamba(const ArchitectureConfig& config, Adder& to) {
  const RecurrentConfig& recurrent = config.recurrent;
  const int64_t inner = recurrent.heads * recurrent.value_dim;
  to.Linear("mamba.in_proj", inner + recurrent.conv_channels + recurrent.heads, config.hidden_size,
            recurrent.projection_bias);
  AddConv(recurrent, "mamba.conv1d", to);
  to.Add("mamba.dt_bias", {recurrent.heads});
  to.Add("mamba.A_log", {recurrent.heads});
  to.Add("mamba.D", {recurrent.heads});
  to.Add("mamba.norm.weight", {inner});
  to.Linear("mamba.out_proj", config.hidden_size, inner, recurrent.projection_bias);
}

void AddMixer(const ArchitectureConfig& config, int64_t layer, Adder& to) {
  switch (config.layers[layer].mixer) {
    case Mixer::kAttention:
      if (config.latent.kv_rank > 0) {
        AddLatentAttention(config, to);
      } else {
        AddAttention(config, config.layers[layer], to);
      }
      break;
    case Mixer::kShortConv:
      AddShortConv(config, to);
      break;
    case Mixer::kDeltaNet:
      AddDeltaNet(config, to);
      break;
    case Mixer::kMamba:
      AddMamba(config, to);
      break;
  }
}

// One matrix of all experts and its bias.
void AddInterleavedExperts(const MoeConfig& moe, const std::string& role, int64_t in, int64_t out,
                           Adder& to) {
  if (moe.mxfp4) {
    to.AddBytes(role + ".blocks", {moe.num_experts, out, in / 32, 16}, 2);
    to.AddBytes(role + ".scales", {moe.num_experts, out, in / 32}, 0);
  } else {
    to.Add(role + ".weight", {moe.num_experts, in, out});
  }
  to.Add(role + ".bias", {moe.num_experts, out});
}

void AddMoe(const ArchitectureConfig& config, Adder& to) {
  const MoeConfig& moe = config.moe;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = moe.intermediate_size;
  to.Add("mlp.router.weight", {moe.num_experts, hidden});
  if (moe.choice_bias) to.Add("mlp.router.e_score_correction_bias", {moe.num_experts});
  if (moe.scaled_router) {
    to.Add("mlp.router.scale", {hidden});
    to.Add("mlp.router.per_expert_scale", {moe.num_experts});
  }
  switch (moe.layout) {
    case ExpertsLayout::kSeparate:
      for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
        to.Mlp(absl::StrCat("mlp.experts.", expert, "."), inner, false);
      }
      break;
    case ExpertsLayout::kStacked:
      to.Add("mlp.experts.gate_up_proj.weight", {moe.num_experts, 2 * inner, hidden});
      to.Add("mlp.experts.down_proj.weight", {moe.num_experts, hidden, inner});
      break;
    case ExpertsLayout::kInterleaved:
      to.Add("mlp.router.bias", {moe.num_experts});
      AddInterleavedExperts(moe, "mlp.experts.gate_up_proj", hidden, 2 * inner, to);
      AddInterleavedExperts(moe, "mlp.experts.down_proj", inner, hidden, to);
      break;
  }
  if (moe.shared_intermediate_size > 0) {
    to.Mlp("mlp.shared_expert.", moe.shared_intermediate_size, moe.shared_fused);
  }
  if (moe.shared_gate) to.Add("mlp.shared_expert_gate.weight", {1, config.hidden_size});
}

void AddNorms(const ArchitectureConfig& config, int64_t layer, Adder& to) {
  const int64_t hidden = config.hidden_size;
  const NormPlacement placement = config.norm_placement;
  const bool before = placement != NormPlacement::kAfter && placement != NormPlacement::kAfterSum;
  const bool after = !before || placement == NormPlacement::kAround;
  if (before && config.layers[layer].attention_norm) to.Norm("attention_norm", hidden);
  if (before && placement != NormPlacement::kParallel) to.Norm("mlp_norm", hidden);
  if (after) to.Norm("attention_after_norm", hidden);
  if (after) to.Norm("mlp_after_norm", hidden);
}

// The feed-forward network and its norms, and what a layer has beside it.
void AddFeedForward(const ArchitectureConfig& config, const LayerConfig& layer, Adder& to) {
  const int64_t hidden = config.hidden_size;
  if (layer.moe) {
    AddMoe(config, to);
  } else {
    to.Mlp("mlp.", layer.wide_mlp ? 2 * config.intermediate_size : config.intermediate_size,
           config.fused_gate_up);
  }
  if (config.experts_beside_mlp) {
    AddMoe(config, to);
    to.Norm("mlp_only_after_norm", hidden);
    to.Norm("experts_norm", hidden);
    to.Norm("experts_after_norm", hidden);
  }
  if (config.layer_input_size > 0) {
    to.Linear("layer_input_gate", config.layer_input_size, hidden, false);
    to.Linear("layer_input_projection", hidden, config.layer_input_size, false);
    to.Norm("layer_input_after_norm", hidden);
  }
  if (config.layer_scalar) to.Add("layer_scalar", {1});
}

void AddHead(const ArchitectureConfig& config, Adder& to) {
  if (!config.tie_word_embeddings) {
    to.Add("lm_head.weight", {config.vocab_size, config.hidden_size});
  }
  if (config.head_bias) to.Add("lm_head.bias", {config.vocab_size});
}

}  // namespace

std::vector<TensorShape> DecoderTensors(const ArchitectureConfig& config) {
  const int64_t hidden = config.hidden_size;
  std::vector<TensorShape> tensors;
  Adder whole(config, -1, tensors);
  whole.Add("model.embed_tokens.weight", {config.vocab_size, hidden});
  if (config.position_embedding) {
    whole.Add("model.embed_positions.weight",
              {config.position_offset + config.max_context, hidden});
  }
  if (config.layer_input_size > 0) {
    const int64_t inputs = config.num_layers * config.layer_input_size;
    whole.Add("model.embed_layers.weight", {config.layer_input_vocab, inputs});
    whole.Linear("model.layer_inputs", inputs, hidden, false);
    whole.Add("model.layer_inputs_norm.weight", {config.layer_input_size});
  }
  if (config.token_types > 0) whole.Add("model.embed_types.weight", {config.token_types, hidden});
  if (config.embedding_norm) whole.Norm("model.embed_norm", hidden);
  if (config.relative_buckets > 0) {
    whole.Add("model.relative_bias.weight", {config.relative_buckets, config.num_heads});
  }
  if (config.final_norm) whole.Norm("model.norm", hidden);
  if (!config.makes_vectors) AddHead(config, whole);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    Adder to(config, layer, tensors);
    AddNorms(config, layer, to);
    AddMixer(config, layer, to);
    AddFeedForward(config, config.layers[layer], to);
  }
  return tensors;
}

}  // namespace modeld
