// Repositories whose text part is one of the architectures.
#include "server/engine/weights/architecture.h"

namespace modeld {
namespace {

// As published before and since the text part moved below "model.".
constexpr NameRoot kRoots[] = {{"language_model.model.", "language_model."},
                               {"model.language_model.", ""}};

constexpr std::string_view kOtherParts[] = {"vision_tower.", "multi_modal_projector.",
                                            "visual.",       "audio_tower.",
                                            "embed_vision.", "embed_audio."};

constexpr Wrapper kWrappers[] = {
    {"gemma3", "Gemma3ForConditionalGeneration", "gemma3_text", kRoots, kOtherParts},
    {"gemma4", "Gemma4ForConditionalGeneration", "gemma4_text", kRoots, kOtherParts},
    {"mistral3", "Mistral3ForConditionalGeneration", "mistral", kRoots, kOtherParts},
    {"qwen3_5", "Qwen3_5ForConditionalGeneration", "qwen3_5_text", kRoots, kOtherParts},
    {"qwen3_vl", "Qwen3VLForConditionalGeneration", "qwen3_vl_text", kRoots, kOtherParts},
};

}  // namespace

const Wrapper* FindWrapper(std::string_view model_type) {
  for (const Wrapper& wrapper : kWrappers) {
    if (wrapper.model_type == model_type) return &wrapper;
  }
  return nullptr;
}

}  // namespace modeld
