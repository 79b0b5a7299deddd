// When to stop: a deadline and a cancel callback behind one question, limit.reached().
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

namespace dna_fast {

class Limit {
  public:
    using Clock = std::chrono::steady_clock;

    Limit() = default;
    // `cancelled` is asked often, so it must be cheap; it decides itself how rarely it does real work.
    Limit(std::optional<Clock::time_point> deadline, std::function<bool()> cancelled)
        : deadline_(deadline), cancelled_(std::move(cancelled)) {}

    // True from the first time the deadline has passed or the caller has cancelled. Inner loops ask after `work` units
    // of work, each of some hundred nanoseconds; the clock is read once in 64 units, as reading it costs about one.
    bool reached(uint64_t work = 1) {
        if (stopped_) return true;
        work_ += work;
        if (work_ < 64) return false;
        return reached_now();
    }

    // The same without that saving: for places that are seldom passed.
    bool reached_now() {
        work_ = 0;
        if (!stopped_) stopped_ = (deadline_ && Clock::now() >= *deadline_) || (cancelled_ && cancelled_());
        return stopped_;
    }

    // For whoever waits for others and asks in between.
    static void nap() { std::this_thread::sleep_for(std::chrono::microseconds(200)); }

    // Runs sort(compare), some algorithm over millions of items with a comparison, and ends it when the limit comes.
    // False: it did, and the items are in disorder; some may be there twice and others not at all.
    template <class Less, class Sort>
    bool sort_unless_reached(Less less, Sort sort) {
        struct Reached {};
        constexpr uint32_t often = 1 << 12;
        uint32_t comparisons = 0;
        try {
            sort([&](const auto& a, const auto& b) {
                if (++comparisons % often == 0 && reached_now()) throw Reached{};
                return less(a, b);
            });
        } catch (const Reached&) {
            return false;
        }
        return true;
    }

  private:
    std::optional<Clock::time_point> deadline_;
    std::function<bool()> cancelled_;
    uint64_t work_ = 0;  // since the clock was last read
    bool stopped_ = false;
};

}  // namespace dna_fast
