#include "server/engine/chat/answer_parser.h"

#include <utility>

#include "server/engine/chat/harmony_answer.h"
#include "server/engine/chat/marked_answer.h"

namespace modeld {
namespace {

std::unique_ptr<AnswerReader> MakeReader(const AnswerFormat& format, const ToolSet& tools,
                                         const AnswerParser::Options& options) {
  if (format.is_harmony()) return std::make_unique<HarmonyAnswer>(tools, options.id_seed);
  return std::make_unique<MarkedAnswer>(format, tools, options.id_seed, options.in_reasoning);
}

}  // namespace

AnswerParser::AnswerParser(const AnswerFormat& format, std::shared_ptr<const ToolSet> tools,
                           Options options)
    : tools_(std::move(tools)),
      scanner_(format.marks()),
      reader_(MakeReader(format, *tools_, options)) {}

AnswerPiece AnswerParser::Put(std::string_view text) {
  scanner_.Put(text, [this](const Symbol& symbol) { reader_->Put(symbol); });
  return reader_->Take();
}

AnswerPiece AnswerParser::Finish() {
  scanner_.Finish([this](const Symbol& symbol) { reader_->Put(symbol); });
  reader_->Finish();
  return reader_->Take();
}

}  // namespace modeld
