// What the programs share: failing in words.
#pragma once

#include <cstdlib>
#include <iostream>
#include <sstream>

namespace dna_fast {

// Ends the program with code 1 (a sanitizer ends it with another) after saying what was expected, and where.
template <class... Words>
void expect(bool holds, const Words&... words) {
    if (holds) return;
    std::ostringstream message;
    (message << ... << words);
    std::cerr << "wrong result: " << message.str() << std::endl;
    std::exit(1);
}

}  // namespace dna_fast
