// When to stop: a deadline and a cancel callback behind one question, limit.reached().
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

namespace dna_fast {

class Limit {
  public:
    using Clock = std::chrono::steady_clock;

    Limit() = default;
    // `cancelled` is asked often, so it must be cheap; it decides itself how rarely it does real work.
    Limit(std::optional<Clock::time_point> deadline, std::function<bool()> cancelled)
        : deadline_(deadline), cancelled_(std::move(cancelled)) {}

    // True from the first time the deadline has passed or the caller has cancelled. Inner loops ask per unit of work;
    // only every 64th question reads the clock, which costs more than a unit of work.
    bool reached() {
        if (stopped_) return true;
        if (++questions_ % 64 != 0) return false;
        return reached_now();
    }

    // The same without the 1-in-64 saving: for places that are seldom passed.
    bool reached_now() {
        if (!stopped_) stopped_ = (deadline_ && Clock::now() >= *deadline_) || (cancelled_ && cancelled_());
        return stopped_;
    }

  private:
    std::optional<Clock::time_point> deadline_;
    std::function<bool()> cancelled_;
    uint64_t questions_ = 0;
    bool stopped_ = false;
};

}  // namespace dna_fast
