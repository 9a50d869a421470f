#include "server/engine/load_model.h"

#include <span>
#include <utility>

#include "server/base/log.h"
#include "server/core/model.h"
#include "server/core/reason.h"
#include "server/engine/models/pass.h"
#include "server/wire/convert.h"

namespace modeld {
namespace {

using modeld::engine::v1::LoadRequest;
using modeld::engine::v1::LoadResponse;

absl::StatusOr<ModelLoadOptions> ToLoadOptions(const LoadRequest& request, int threads) {
  if (request.snapshot_path().empty()) return InvalidField("snapshot_path", "is empty");
  ModelLoadOptions out;
  out.snapshot_path = request.snapshot_path();
  if (!request.dtype().empty()) out.spec.dtype = request.dtype();
  out.spec.device_map_entries = {request.device_map_entries().begin(),
                                 request.device_map_entries().end()};
  if (!request.device_map().empty()) {
    out.spec.device_map = request.device_map();
  } else if (!out.spec.device_map_entries.empty()) {
    out.spec.device_map.clear();
  }
  out.spec.max_context = request.max_context();
  RETURN_IF_ERROR(ValidateLoadSpec(out.spec));
  out.budget_bytes = {request.budget_bytes().begin(), request.budget_bytes().end()};
  out.threads = threads;
  out.prefix_cache = !request.prefix_cache_off();
  return out;
}

LoadResponse Message(LoadResponse::Phase phase, int64_t bytes_done, int64_t bytes_total) {
  LoadResponse out;
  out.set_phase(phase);
  out.set_bytes_done(bytes_done);
  out.set_bytes_total(bytes_total);
  return out;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ServingModel>> LoadServingModel(const LoadRequest& request,
                                                               const ServingOptions& options,
                                                               Clock& clock,
                                                               const OnLoadMessage& on_message) {
  ASSIGN_OR_RETURN(const ModelLoadOptions load_options, ToLoadOptions(request, options.threads));
  const auto started = clock.Steady();
  on_message(Message(LoadResponse::PHASE_PREPARING, 0, 0));
  auto model = std::make_shared<ServingModel>();
  model->name = request.model_name();
  model->limits = FromProto(request.limits());
  ASSIGN_OR_RETURN(model->tokenizer, Tokenizer::Load(request.snapshot_path()));
  model->special_tokens = SpecialTokens(*model->tokenizer);
  model->chat_template = ChatTemplate::Load(request.snapshot_path());
  if (!model->chat_template.ok() &&
      !HasReason(model->chat_template.status(), Reason::kNoChatTemplate)) {
    return model->chat_template.status();
  }
  if (model->chat_template.ok()) {
    model->answer_formats =
        AnswerFormats(**model->chat_template, *model->tokenizer, model->special_tokens);
  }
  ASSIGN_OR_RETURN(
      model->loaded, LoadModel(load_options, [&](int64_t bytes_done, int64_t bytes_total) {
        const bool all = bytes_done == bytes_total;
        on_message(Message(all ? LoadResponse::PHASE_WARMING_UP : LoadResponse::PHASE_READING,
                           bytes_done, bytes_total));
      }));
  if (model->loaded.embedder) {
    const TextEmbedder& embedder = *model->loaded.embedder;
    model->embeddings = std::make_unique<EmbeddingQueue>(
        EmbeddingQueue::Options{.waiting_max = options.scheduler.waiting_max,
                                .pass_tokens = kPassTokens},
        [&embedder](std::span<const TokenizedText* const> texts) { return embedder.Embed(texts); },
        clock);
  } else {
    model->scheduler = std::make_unique<Scheduler>(options.scheduler, *model->loaded.model, clock);
  }
  LogInfo("model_loaded",
          {{"model", model->name},
           {"max_context", model->loaded.max_context},
           {"seconds", std::chrono::duration<double>(clock.Steady() - started).count()}});
  return model;
}

}  // namespace modeld
