#include "prices.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "planes.h"

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Units in which losses, uses and prices are about one, so that bytes and microseconds suit one arithmetic.
struct Units {
    double loss = 1;
    std::vector<double> use;

    explicit Units(const Chain& chain) : use(chain.resources(), 0.0) {
        double spread = 0;
        for (const ChainBlock& block : chain.blocks) {
            const auto [low, high] =
                std::minmax_element(block.loss.data, block.loss.data + block.loss.rows * block.loss.size);
            spread += *high - *low;
            for (size_t r = 0; r < use.size(); ++r) {
                const auto& uses = block.use[r];
                const auto [least, largest] = std::minmax_element(uses.data, uses.data + uses.rows * uses.size);
                use[r] += static_cast<double>(*largest) - static_cast<double>(*least);
            }
        }
        if (spread > 0) loss = spread;
        for (double& unit : use) unit = std::max(unit, 1.0);
    }

    double price(size_t r) const { return loss / use[r]; }
};

class Ascent {
  public:
    Ascent(const Chain& chain, Limit& limit)
        : chain_(chain), limit_(limit), units_(chain), pricer_(chain), planes_(chain.resources()) {}

    Relaxation run() {
        const size_t resources = chain_.resources();
        best_.bound = pricer_.at(std::vector<double>(resources, 0.0));
        if (best_.bound.root == infinity) return std::move(best_);
        offset_ = best_.bound.root;
        center_.assign(resources, 0.0);
        learn();
        while (resources > 0 && best_.iterations < most_iterations && !settled() && !limit_.reached_now()) {
            if (!step()) break;
        }
        return std::move(best_);
    }

  private:
    static constexpr size_t most_iterations = 300;

    // The bound has met the incumbent, or passed every loss there is, which proves that nothing fits.
    bool settled() const {
        const PricedBound& bound = best_.bound;
        return incumbent_ - bound.root <= bound.slack || bound.root > pricer_.loss_magnitude() + bound.slack;
    }

    // One look at the model, and one evaluation where it promises something. False: nothing is left to gain.
    bool step() {
        const Planes::Box box = box_around_center();
        const std::optional<Planes::Peak> peak = planes_.peak(box);
        if (!peak) return false;
        const double promised = peak->height - (best_.bound.root - offset_) / units_.loss;
        if (promised <= worth_having()) {
            constexpr double widest = 1e15;
            width_ *= 4;
            return touches_wall(*peak, box) && width_ < widest;
        }
        evaluate(*peak, promised);
        return true;
    }

    Planes::Box box_around_center() const {
        Planes::Box box;
        for (double at : center_) {
            box.lower.push_back(std::max(0.0, at - width_));
            box.upper.push_back(at + width_);
        }
        return box;
    }

    // A thousandth of the gap decides nothing.
    double worth_having() const {
        constexpr double least = 1e-9;
        if (incumbent_ == infinity) return least;
        return std::max(least, 1e-3 * (incumbent_ - best_.bound.root) / units_.loss);
    }

    bool touches_wall(const Planes::Peak& peak, const Planes::Box& box) const {
        const double close = 1e-9 * width_;
        for (size_t r = 0; r < peak.at.size(); ++r) {
            if (peak.at[r] >= box.upper[r] - close) return true;
            if (box.lower[r] > 0 && peak.at[r] <= box.lower[r] + close) return true;
        }
        return false;
    }

    void evaluate(const Planes::Peak& peak, double promised) {
        ++best_.iterations;
        std::vector<double> price;
        for (size_t r = 0; r < peak.at.size(); ++r) price.push_back(peak.at[r] * units_.price(r));
        PricedBound current = pricer_.at(std::move(price));
        // Prices can overflow with losses near the end of float64; such a bound says nothing.
        if (!std::isfinite(current.root + current.slack)) {
            width_ /= 8;
            return;
        }
        learn();
        const double gain = (current.root - best_.bound.root) / units_.loss;
        if (gain > 0) {
            if (gain > promised / 2) width_ *= 2;
            center_ = peak.at;
            best_.bound = std::move(current);
        } else if (gain < -promised) {
            constexpr double narrowest = 1e-9;
            width_ = std::max(width_ / 2, narrowest);
        }
    }

    // The choice behind the last evaluation: a plane, and perhaps an incumbent.
    void learn() {
        Totals totals = pricer_.attained();
        std::vector<double> slope;
        for (size_t r = 0; r < chain_.resources(); ++r) {
            slope.push_back((static_cast<double>(totals.use[r]) - static_cast<double>(chain_.cap[r])) / units_.use[r]);
        }
        planes_.add((totals.loss - offset_) / units_.loss, std::move(slope));
        if (totals.loss < incumbent_ && totals.within(chain_.cap)) {
            incumbent_ = totals.loss;
            best_.incumbent = std::move(totals.choice);
        }
    }

    const Chain& chain_;
    Limit& limit_;
    const Units units_;
    Pricer pricer_;
    Planes planes_;
    double offset_ = 0;           // the bound without prices, from where losses are counted
    std::vector<double> center_;  // prices of the best bound, in units
    double width_ = 1;            // half the box's, in units
    double incumbent_ = infinity;
    Relaxation best_;
};

}  // namespace

Relaxation improve_prices(const Chain& chain, Limit& limit) { return Ascent(chain, limit).run(); }

}  // namespace dna_fast
