#include "serving/feedback.h"

#include <bit>
#include <new>

#include "serving/deployment.h"

namespace clipper {
namespace {

/// The observations of one row, made one model after the other.
class Observations {
 public:
  void add(std::uint16_t model, float loss, float propensity, Deployment* deployment) noexcept {
    deployments_[count_] = deployment;
    made_[count_++] = {model, loss, propensity};
  }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] std::span<const Observation> all() const noexcept {
    return std::span(made_).first(count_);
  }
  /// Whose output the i-th observation is of; nullptr: nobody knows.
  [[nodiscard]] Deployment* deployment(std::size_t i) const noexcept { return deployments_[i]; }

 private:
  std::array<Observation, kMaxAsks> made_{};
  std::array<Deployment*, kMaxAsks> deployments_{};
  std::size_t count_ = 0;
};

/// The one place where feedback reaches the policy, and the models' statistics: all or, where the
/// context's state cannot be had for want of memory, nothing.
FeedbackStatus learn(Application& application, std::uint64_t context, bool has_context,
                     const Observations& observations, Nanos now_ns, Learned* learned) noexcept {
  if (application.contexts != nullptr) {
    ContextTable& contexts = *application.contexts;
    const Observed observed = has_context ? contexts.observe(context, observations.all())
                                          : contexts.observe(observations.all());
    if (observed == Observed::kRefused) return FeedbackStatus::kRefused;
  }
  for (std::size_t i = 0; i < observations.all().size(); ++i) {
    const Observation& seen = observations.all()[i];
    application.feedback.note_loss(seen.model, seen.loss);
    if (Deployment* deployment = observations.deployment(i)) {
      deployment->note_loss(static_cast<double>(seen.loss), now_ns);
    }
  }
  if (learned != nullptr) {
    const std::span<const Observation> all = observations.all();
    learned->rows.push_back({context, has_context,
                             static_cast<std::uint32_t>(learned->observations.size()),
                             static_cast<std::uint32_t>(all.size())});
    learned->observations.insert(learned->observations.end(), all.begin(), all.end());
  }
  return FeedbackStatus::kApplied;
}

Observations judge(const Application& application, JoinRecord& record, std::uint32_t index,
                   const Said& said, std::uint32_t place) noexcept {
  Observations made;
  const JoinRecord::Row& row = record.row(index);
  std::uint32_t judged = said.losses != nullptr ? row.given : row.answered;
  for (; judged != 0; judged &= judged - 1) {
    const auto i = static_cast<std::uint16_t>(std::countr_zero(judged));
    const JoinRecord::Asked& asked = record.asked(i);
    float loss = 0.0F;
    if (said.losses != nullptr) {
      loss = said.losses[place];
    } else if (said.model_losses != nullptr) {
      loss = said.model_losses[std::size_t{place} * kMaxAsks + i];
    } else {
      loss = application.loss.of(record.output(i, index), *record.layout, said.labels, place);
    }
    made.add(asked.model, loss, asked.propensity, asked.deployment);
  }
  return made;
}

}  // namespace

bool OutputCopies::take(JoinRecord& record, std::uint32_t row) noexcept {
  clear();
  const std::uint32_t answered = record.row(row).answered;
  asks_ = record.asks;
  if (answered == 0) return true;
  memory_.reset(new (std::nothrow) std::byte[record.asks * record.layout->row_bytes()]);
  if (memory_ == nullptr) return false;
  layout_ = record.layout;
  layout_->prepare(memory_.get(), asks_);
  answered_ = answered;
  for (std::uint16_t i = 0; i < asks_; ++i) {
    if ((answered >> i & 1u) == 0) continue;
    if (!layout_->copy(record.output(i, row), output(i))) return false;
  }
  return true;
}

void OutputCopies::clear() noexcept {
  if (memory_ != nullptr) layout_->clear(memory_.get(), asks_);
  memory_.reset();
  layout_ = nullptr;
  answered_ = 0;
}

void Feedback::take(Application& application, std::span<const AnsweredRow> rows, const Said& said,
                    FeedbackStatus* statuses, Learned* learned) noexcept {
  const Nanos now_ns = clock_.now_ns();
  for (std::uint32_t i = 0; i < rows.size(); ++i) {
    statuses[i] = take_one(application, rows[i], said, i, now_ns, learned);
    application.feedback.count(statuses[i]);
  }
}

void Feedback::take_refused(Application& application, std::span<const AnsweredRow> rows,
                            const Said& said, FeedbackStatus* statuses) noexcept {
  const Nanos now_ns = clock_.now_ns();
  for (std::uint32_t i = 0; i < rows.size(); ++i) {
    if (statuses[i] != FeedbackStatus::kRefused) continue;
    statuses[i] = take_one(application, rows[i], said, i, now_ns, nullptr);
    application.feedback.recount(FeedbackStatus::kRefused, statuses[i]);
  }
}

FeedbackStatus Feedback::look(Application& application, AnsweredRow row,
                              OutputCopies& copies) noexcept {
  FeedbackStatus status{};
  const RecordPin record = find(application, row, clock_.now_ns(), status);
  if (record) {
    if (record->row(row.row).answered == 0) {
      status = FeedbackStatus::kUnattributed;
    } else if (!copies.take(*record, row.row)) {
      status = FeedbackStatus::kExpired;  // for want of memory, as everything that is not kept
    }
  }
  return status;
}

RecordPin Feedback::find(Application& application, AnsweredRow at, Nanos now_ns,
                         FeedbackStatus& status) noexcept {
  RecordPin record = records_.find(at.ticket, now_ns, status);
  if (!record) return record;
  if (record->application != &application) {
    status = FeedbackStatus::kForeign;
  } else if (at.row >= record->rows) {
    status = FeedbackStatus::kUnknown;
  } else if (record->row(at.row).taken.load(std::memory_order_relaxed) != 0) {
    status = FeedbackStatus::kDuplicate;
  }
  return status == FeedbackStatus::kApplied ? std::move(record) : RecordPin();
}

FeedbackStatus Feedback::take_one(Application& application, AnsweredRow at, const Said& said,
                                  std::uint32_t place, Nanos now_ns, Learned* learned) noexcept {
  FeedbackStatus status{};
  const RecordPin record = find(application, at, now_ns, status);
  if (!record) return status;
  const Observations made = judge(application, *record, at.row, said, place);
  if (made.empty()) return FeedbackStatus::kUnattributed;
  if (record->row(at.row).taken.exchange(1, std::memory_order_relaxed) != 0) {
    return FeedbackStatus::kDuplicate;  // somebody was faster
  }
  status = learn(application, record->context, record->has_context, made, now_ns, learned);
  // Nothing was learned, so it may be said again.
  if (status == FeedbackStatus::kRefused) {
    record->row(at.row).taken.store(0, std::memory_order_relaxed);
  }
  return status;
}

void Feedback::take_answers(Application& application, Query& query, const Said& said,
                            FeedbackStatus* statuses, Learned* learned) noexcept {
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    Observations made;
    for (std::uint16_t i = 0; i < query.asks; ++i) {
      Ask& ask = query.ask(i);
      if (ask.cause(row) != Cause::kNone) continue;
      const OutputLayout& layout = ask.deployment()->output_layout();
      const float loss = said.model_losses != nullptr
                             ? said.model_losses[std::size_t{row} * kMaxAsks + i]
                             : application.loss.of(ask.outputs().data() + row * layout.row_bytes(),
                                                   layout, said.labels, row);
      made.add(ask.model_index(), loss, ask.propensity(), ask.deployment());
    }
    statuses[row] = made.empty() ? FeedbackStatus::kUnattributed
                                 : learn(application, query.context_key, query.has_context, made,
                                         query.done_ns.load(std::memory_order_relaxed), learned);
    application.feedback.count(statuses[row]);
  }
}

}  // namespace clipper
